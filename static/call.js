// One call: a stream to the server, what comes back, and the controls and figures beside it.

import { authorization } from "./token.js";

const CONNECT_WITHIN = 12_000; // ms
const GATHER_WITHIN = 2_000; // ms; candidates found later are not needed to reach a server
const ANSWER_WITHIN = 20_000; // ms
const HANG_UP_WITHIN = 2_000; // ms
const LOST_AFTER = 5_000; // ms of "disconnected", which often heals by itself
const OPTIONS = { bundlePolicy: "max-bundle" };
const SEND_BITRATE = 96_000; // bit/s; Chromium's own 32 kbit/s costs high frequencies

const UNCONNECTED = "The call could not be connected. A firewall may be blocking UDP.";
const LOST = "The connection to the server was lost.";

/** Something that the user is to read. */
export class CallError extends Error {}

/** The server wants a token, or another one. */
export class TokenError extends CallError {}

/**
 * Events: "live" (connected), "remote" (detail: MediaStream that comes back), "figures" (detail: what the
 * server says of the call), "ended" (detail: CallError, or null when stop() was called).
 */
export class Call extends EventTarget {
  #pc = new RTCPeerConnection(OPTIONS);
  #channel = this.#pc.createDataChannel("control");
  #id = null;
  #live = false; // it was, once
  #over = false;
  #timer = null;
  #waiting = {}; // changes made before the server could be told

  get connection() {
    return this.#pc;
  }

  /**
   * @param {MediaStream} stream
   * @param {{enabled: boolean, attenuation_limit_db: ?number, postfilter: boolean}} controls
   * @param {?string} room of two, in which the other is heard in place of oneself
   */
  async start(stream, controls, room = null) {
    const pc = this.#pc;
    this.#listen();
    try {
      const { iceServers } = await this.#ask("config");
      if (this.#over) return;
      pc.setConfiguration({ ...OPTIONS, iceServers });
      const [track] = stream.getAudioTracks();
      const { sender } = pc.addTransceiver(track, { direction: "sendrecv", streams: [stream] });
      await pc.setLocalDescription(await pc.createOffer());
      await this.#gathered();
      const { type, sdp } = pc.localDescription;
      const answer = await this.#ask(room ? `offer?room=${encodeURIComponent(room)}` : "offer", { type, sdp, ...controls });
      this.#id = answer.id;
      if (this.#over) return this.#hangUp();
      this.#setTimer(CONNECT_WITHIN, UNCONNECTED);
      await pc.setRemoteDescription({ type: answer.type, sdp: answer.sdp });
      await this.#raise(sender);
    } catch (error) {
      this.#end(error instanceof CallError ? error : new CallError(`The call failed: ${error.message}`));
    }
  }

  /** Turn controls during the call; until the data channel is open they wait for it. */
  set(changes) {
    if (this.#over) return;
    if (this.#channel.readyState === "open") this.#channel.send(JSON.stringify(changes));
    else Object.assign(this.#waiting, changes);
  }

  stop() {
    this.#end(null);
  }

  #listen() {
    const pc = this.#pc;
    pc.addEventListener("track", ({ track }) => this.#over || this.#tell("remote", new MediaStream([track])));
    pc.addEventListener("connectionstatechange", () => {
      if (this.#over) return; // the connection goes on until the server knows of the end
      if (pc.connectionState === "connected") {
        clearTimeout(this.#timer);
        this.#live = true;
        this.#tell("live");
      }
      if (pc.connectionState === "failed") this.#end(new CallError(this.#live ? LOST : UNCONNECTED));
      if (pc.connectionState === "disconnected") this.#setTimer(LOST_AFTER, LOST);
    });
    this.#channel.addEventListener("open", () => {
      if (Object.keys(this.#waiting).length) this.#channel.send(JSON.stringify(this.#waiting));
      this.#waiting = {};
    });
    this.#channel.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "figures" && !this.#over) this.#tell("figures", message);
    });
    this.#channel.addEventListener("close", () => {
      this.#id = null; // the server has closed it, and with it the call
      this.#end(new CallError("The server has ended the call."));
    });
  }

  #gathered() {
    const pc = this.#pc;
    return new Promise((resolve) => {
      const check = () => pc.iceGatheringState === "complete" && resolve();
      pc.addEventListener("icegatheringstatechange", check);
      setTimeout(resolve, GATHER_WITHIN);
      check();
    });
  }

  async #raise(sender) {
    const parameters = sender.getParameters();
    if (!parameters.encodings?.length) return;
    parameters.encodings[0].maxBitrate = SEND_BITRATE;
    await sender.setParameters(parameters).catch(() => {}); // without it the browser's own rate holds
  }

  async #ask(path, body) {
    let response;
    const token = authorization();
    try {
      const json = body && { method: "POST", body: JSON.stringify(body) };
      const headers = { ...token, ...(body && { "Content-Type": "application/json" }) };
      response = await fetch(path, { ...json, headers, signal: AbortSignal.timeout(ANSWER_WITHIN) });
    } catch {
      throw new CallError("The server cannot be reached.");
    }
    if (response.status === 401) throw new TokenError(token.Authorization ? "This server does not take this token." : "This server needs a token.");
    if (response.ok) {
      return response.json().catch(() => {
        throw new CallError("The server's answer did not come.");
      });
    }
    const { error = `status ${response.status}` } = await response.json().catch(() => ({}));
    if (response.status !== 503) throw new CallError(`The server said: ${error}`);
    const wait = response.headers.get("Retry-After");
    throw new CallError(`The server takes no call now: ${error}. Try again in ${wait ? `${wait} s` : "a moment"}.`);
  }

  #setTimer(ms, message) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#end(new CallError(message)), ms);
  }

  #end(error) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    // First the call, then the connection: a server that sees that end would answer that there is no such call.
    this.#hangUp().finally(() => this.#pc.close());
    this.#tell("ended", error);
  }

  async #hangUp() {
    if (this.#id === null) return;
    const path = `calls/${this.#id}`;
    this.#id = null;
    // keepalive: it is also sent when the page is being closed
    const options = { method: "DELETE", headers: authorization(), keepalive: true, signal: AbortSignal.timeout(HANG_UP_WITHIN) };
    await fetch(path, options).catch(() => {});
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
