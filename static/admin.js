// The server's load, drawn live, and the calls at hand.

import { Chart } from "./chart.js";
import { Load } from "./load.js";
import { authorization, keep, takeFromAddress } from "./token.js";

const EVERY = 2000; // ms

const $ = (id) => document.getElementById(id);
const whole = (value) => value.toFixed(0);
const percent = (value) => `${(100 * value).toFixed(0)} %`;
const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;
const charts = {
  calls: new Chart($("calls"), ["calls", "listeners", "rated"], whole, 4),
  cpu: new Chart($("cpu"), ["of a core"], percent, 0.5),
  step: new Chart($("step"), ["p50", "p99"], milliseconds, 5),
  batch: new Chart($("batch"), ["mean"], (value) => value.toFixed(1), 2),
  delay: new Chart($("delay"), ["mean", "p99 below"], milliseconds, 10),
  trouble: new Chart($("trouble"), ["dry now", "shed", "refused"], whole, 2),
};
const load = new Load();
let timer = null;
let shown = Promise.resolve(); // once all that was to be shown is

class TokenNeeded extends Error {}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  keep($("token").value);
  show();
});
addEventListener("hashchange", () => {
  takeFromAddress();
  show();
});
document.addEventListener("visibilitychange", show);

/** Ask and draw now, and again and again while the page is seen; one after the other. */
function show() {
  shown = shown.then(showOnce);
}

async function showOnce() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const [stats, { calls }] = await Promise.all([ask("stats"), ask("calls")]);
    const points = load.take(stats);
    for (const [name, chart] of Object.entries(charts)) chart.add(points[name]);
    list(calls);
    say("live", "Live");
    $("access").hidden = true;
  } catch (error) {
    if (error instanceof TokenNeeded) return askForToken();
    say("failed", "The server cannot be reached");
  }
  timer = setTimeout(show, EVERY);
}

function askForToken() {
  say("failed", authorization().Authorization ? "The server does not take this token" : "The server needs a token");
  $("access").hidden = false;
  $("token").focus();
}

async function ask(path) {
  const answer = await fetch(path, { headers: authorization(), signal: AbortSignal.timeout(2 * EVERY) });
  if (answer.status === 401) throw new TokenNeeded();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function list(calls) {
  $("none").hidden = calls.length > 0;
  $("lines").replaceChildren(...calls.map(line));
}

function line({ id, role, room, state, age_s, enhancement, loss, delay_ms }) {
  const row = document.createElement("tr");
  row.className = ["shed", "failed"].includes(enhancement) ? "dry" : "";
  const [lost, delay] = [loss === null ? null : `${(100 * loss).toFixed(1)} %`, delay_ms === null ? null : milliseconds(delay_ms)];
  for (const text of [id, role, room, state, duration(age_s), enhancement, lost, delay]) row.insertCell().textContent = text ?? "–";
  return row;
}

function duration(seconds) {
  const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
  return `${minutes}:${String(rest).padStart(2, "0")}`;
}

function say(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

takeFromAddress();
show();
