// The page: its controls, one call at a time, and the two scopes.

import { Call, CallError, TokenError } from "./call.js";
import { explain, room, words } from "./company.js";
import { Scope } from "./scope.js";
import { openMicrophone, openSample } from "./sources.js";
import { palette } from "./spectrogram.js";
import { Stats } from "./stats.js";
import { keep, takeFromAddress } from "./token.js";

const STATS_EVERY = 500; // ms
const QUIET_READINGS = 5; // without figures, which come five times a second: 2 s at least
const SAMPLE_RATE = 48_000; // Hz, so that the spectrograms reach 24 kHz
const STATES = {
  idle: "Ready",
  connecting: "Connecting…",
  live: "Live",
  waiting: "Waiting for the server…",
  failed: "Stopped",
};

const $ = (id) => document.getElementById(id);
const [form, player, limit] = [$("controls"), $("player"), $("limit")];
const [out, back] = [new Scope($("out")), new Scope($("back"))];

let lostOut = null; // packets that the server missed
let dry = ""; // why the server gives back dry audio though it should be enhanced
let session = null; // what is open while a call is: {call, context, source, timer, quiet}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (session) session.call.stop();
  else start();
});
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName === "A") return;
  const { type } = event.target;
  const held = event.repeat; // or it would start and hang up, and start again
  if (!held && type !== "checkbox" && type !== "range" && (type === "submit" || !session)) return;
  event.preventDefault(); // or it would start the call, or hang it up
  if (type === "checkbox" && !held) event.target.click();
});
$("start").addEventListener("click", (event) => {
  if (event.detail > 1) event.preventDefault(); // the second of a double click, which means one
});
$("sources").addEventListener("change", describe);
$("enabled").addEventListener("change", () => {
  turn({ enabled: $("enabled").checked });
  out.mark();
  back.mark();
});
$("postfilter").addEventListener("change", () => turn({ postfilter: $("postfilter").checked }));
limit.addEventListener("input", () => turn({ attenuation_limit_db: attenuationLimit() }));
$("listen").addEventListener("change", () => {
  player.muted = !$("listen").checked;
  if (session) play();
});
$("token").addEventListener("change", () => keep($("token").value));
addEventListener("hashchange", takeFromAddress);
$("alert-close").addEventListener("click", () => ($("alert").hidden = true));
addEventListener("pagehide", () => session?.call.stop());

async function start() {
  let call, context;
  try {
    call = new Call();
    context = new AudioContext({ sampleRate: SAMPLE_RATE });
  } catch (error) {
    call?.stop();
    show("failed");
    return say(`This browser lends no WebRTC or no sound to the page: ${error.message}`);
  }
  const opened = { call, context, source: null, timer: null, quiet: -Infinity }; // it waits for what has come before
  session = opened;
  show("connecting");
  $("alert").hidden = true;
  // Both at once: Safari lets only what a click begins be heard, and answers when it likes.
  context.resume().catch(() => {});
  player.play().catch(() => {});
  call.addEventListener("remote", ({ detail }) => hear(context, detail));
  call.addEventListener("live", () => live(opened));
  call.addEventListener("figures", ({ detail }) => hearFrom(opened, detail));
  call.addEventListener("ended", ({ detail }) => end(opened, detail));
  try {
    opened.source = await (chosen() === "microphone" ? openMicrophone() : openSample(context));
    if (session !== opened) return opened.source.close(); // stopped meanwhile
    for (const track of opened.source.stream.getTracks()) {
      track.addEventListener("ended", () => end(opened, new CallError("The microphone is gone. Plug it in, and start again.")));
    }
    out.clear();
    back.clear();
    out.watch(context, opened.source.stream);
    await call.start(opened.source.stream, controls(), room);
  } catch (error) {
    end(opened, error instanceof CallError ? error : new CallError(`The call cannot be started: ${error.message}`));
  }
}

function hear(context, stream) {
  player.srcObject = stream; // Chromium feeds Web Audio from the network only while an element plays it too
  player.muted = !$("listen").checked;
  play();
  back.watch(context, stream);
}

function play() {
  player.play().catch((error) => {
    if (error.name === "NotAllowedError") say("The browser blocks sound on this page. Allow it, and turn Listen off and on.");
  });
}

function live(opened) {
  if (opened.timer) return;
  if (document.activeElement === $("token")) $("start").focus(); // or it would be nowhere
  $("token-field").hidden = true;
  show("live");
  const stats = new Stats(opened.call.connection);
  opened.timer = setInterval(async () => {
    // Readings are counted, and not time: a page that sleeps misses its timers and the figures alike.
    if (++opened.quiet === QUIET_READINGS) show("waiting");
    showStats(await stats.read());
  }, STATS_EVERY);
}

function hearFrom(opened, figures) {
  if (opened.quiet >= QUIET_READINGS) show("live");
  opened.quiet = 0;
  showServer(figures);
}

function end(ended, error) {
  if (session !== ended) return;
  session = null;
  clearInterval(ended.timer);
  ended.call.stop();
  ended.source?.close();
  ended.context.close();
  player.srcObject = null;
  [dry, lostOut] = ["", null];
  describe();
  out.rest();
  back.rest();
  show(error ? "failed" : "idle");
  if (error) say(error.message);
  if (error instanceof TokenError) askForToken();
}

function askForToken() {
  $("token-field").hidden = false;
  $("token").value = "";
  $("token").focus();
}

function turn(changes) {
  describe();
  session?.call.set(changes);
}

const chosen = () => form.elements.source.value;

function attenuationLimit() {
  return limit.value === limit.max ? null : Number(limit.value);
}

function controls() {
  return {
    enabled: $("enabled").checked,
    attenuation_limit_db: attenuationLimit(),
    postfilter: $("postfilter").checked,
  };
}

function describe() {
  const { enabled, attenuation_limit_db } = controls();
  const microphone = chosen() === "microphone";
  const text = attenuation_limit_db === null ? "No limit" : `${attenuation_limit_db} dB`;
  $("enabled-hint").textContent = !enabled ? words.off : dry ? `Not enhanced: ${dry}` : words.on;
  $("limit-text").textContent = text;
  limit.setAttribute("aria-valuetext", text);
  limit.style.setProperty("--part", `${(100 * limit.value) / limit.max}%`);
  $("out-what").textContent = microphone ? "Microphone" : "Noisy sample";
  const back = dry ? `Not enhanced: ${dry}` : enabled ? "Enhanced" : "Not enhanced";
  $("back-what").textContent = words.back || back;
  $("back").classList.toggle("dry", !room && (dry !== "" || !enabled));
  $("headphones").hidden = !microphone;
}

function show(state) {
  $("status").dataset.state = state;
  $("status").textContent = STATES[state];
  const running = ["connecting", "live", "waiting"].includes(state);
  $("start").textContent = running ? "Stop" : "Start";
  $("start").classList.toggle("stop", running);
  if (running && $("sources").contains(document.activeElement)) $("start").focus(); // or it would be nowhere
  $("sources").disabled = running;
  $("figures").classList.toggle("old", state !== "live");
}

function say(text) {
  $("alert-text").textContent = text;
  $("alert").hidden = false;
}

const milliseconds = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
const REASONS = { failed: "fault in the server", shed: "the server is overloaded" };
function showServer({ delay, packets, enhancement }) {
  const waiting = delay.server_p50_ms;
  $("figure-server").textContent = waiting === null ? "–" : milliseconds(delay.algorithm_ms + waiting);
  $("figure-server-about").textContent = `${milliseconds(delay.algorithm_ms)} of it algorithm`;
  lostOut = packets.lost;
  const reason = REASONS[enhancement] ?? "";
  if (reason !== dry) {
    dry = reason;
    describe();
  }
}

function showStats({ roundTrip, jitterBuffer, lostBack }) {
  $("figure-rtt").textContent = milliseconds(roundTrip);
  $("figure-jitter").textContent = milliseconds(jitterBuffer);
  $("figure-lost").textContent = `${lostOut ?? "–"} · ${lostBack ?? "–"}`;
}

function frame(now) {
  out.draw(now);
  back.draw(now);
  requestAnimationFrame(frame);
}

$("legend").getContext("2d").putImageData(new ImageData(palette(), 256, 1), 0, 0);
takeFromAddress();
explain($("company"));
if (room) form.elements.source.value = "microphone";
describe();
requestAnimationFrame(frame);
