// What the browser knows of the way there and back, read from getStats().

export class Stats {
  #pc;
  #delay = 0; // s, summed over all samples that left the jitter buffer
  #emitted = 0; // samples

  /** @param {RTCPeerConnection} pc */
  constructor(pc) {
    this.#pc = pc;
  }

  /** Round trip and jitter buffer in ms, packets that never came back; null where not known yet. */
  async read() {
    const figures = { roundTrip: null, jitterBuffer: null, lostBack: null };
    for (const report of (await this.#pc.getStats()).values()) {
      if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined) {
        figures.roundTrip = report.currentRoundTripTime * 1000;
      }
      if (report.type === "inbound-rtp" && report.kind === "audio") {
        figures.lostBack = report.packetsLost ?? null;
        figures.jitterBuffer = this.#mean(report.jitterBufferDelay, report.jitterBufferEmittedCount);
      }
    }
    return figures;
  }

  /** Mean since the last reading, not over the whole call. */
  #mean(delay, emitted) {
    const mean = emitted > this.#emitted ? (1000 * (delay - this.#delay)) / (emitted - this.#emitted) : null;
    [this.#delay, this.#emitted] = [delay, emitted];
    return mean;
  }
}
