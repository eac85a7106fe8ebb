// Put into the page by tests: records the remote track itself, so that no sound card or resampler stands between.

globalThis.recorder = {
  /**
   * What comes back in the next `seconds`, as [base64 of float32 samples, arrival of each frame in ms, time of
   * each click in ms]. Clicks on the element `clicked` when each of `clicks` seconds have come.
   */
  async read(seconds, clicked, clicks) {
    const [track] = document.getElementById("player").srcObject.getAudioTracks();
    const reader = new MediaStreamTrackProcessor({ track: track.clone() }).readable.getReader();
    const samples = new Float32Array(seconds * 48_000);
    const times = [];
    const clickTimes = [];
    for (let filled = 0; filled < samples.length; ) {
      const { value: frame, done } = await reader.read();
      if (done) throw new Error(`the track ended after ${filled / 48_000} s`);
      if (frame.sampleRate !== 48_000) throw new Error(`48 kHz expected, not ${frame.sampleRate}`);
      const part = new Float32Array(frame.numberOfFrames);
      frame.copyTo(part, { planeIndex: 0, format: "f32-planar" });
      frame.close();
      samples.set(part.subarray(0, samples.length - filled), filled);
      filled += part.length;
      times.push(performance.now());
      if (filled >= clicks[clickTimes.length] * 48_000) {
        clickTimes.push(performance.now());
        document.getElementById(clicked).click();
      }
    }
    await reader.cancel();
    return [base64(new Uint8Array(samples.buffer)), times, clickTimes];
  },
};

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}
