// What is sent: the microphone as it is, or a noisy recording for those who only look.

import { CallError } from "./call.js";

// A suppressor of the browser before the server's would distort speech twice and hide which one is heard.
const RAW = { noiseSuppression: false, echoCancellation: false, autoGainControl: false };
const WANTED = { channelCount: 1, sampleRate: 48_000, ...RAW };

const REASONS = {
  NotAllowedError: "The browser did not allow the microphone. Allow it beside the address, or try the noisy sample.",
  NotFoundError: "No microphone was found. Plug one in, or try the noisy sample.",
  NotReadableError: "The microphone cannot be opened. Another program may be using it.",
};

/** @returns {Promise<{stream: MediaStream, close: () => void}>} */
export async function openMicrophone() {
  if (!navigator.mediaDevices) {
    throw new CallError("Browsers lend the microphone to secure pages only: open this one over https or at localhost.");
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
    return { stream, close: () => stream.getTracks().forEach((track) => track.stop()) };
  } catch (error) {
    throw new CallError(REASONS[error.name] ?? `The microphone cannot be opened: ${error.message}`);
  }
}

/** The recording, over and over. @param {AudioContext} context */
export async function openSample(context) {
  const response = await fetch("audio/sample.flac").catch(() => null);
  if (!response?.ok) throw new CallError("The sample cannot be loaded: the server cannot be reached.");
  const player = context.createBufferSource();
  player.buffer = await context.decodeAudioData(await response.arrayBuffer());
  player.loop = true;
  const sink = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
  player.connect(sink);
  player.start();
  const close = () => {
    player.stop();
    sink.stream.getTracks().forEach((track) => track.stop());
  };
  return { stream: sink.stream, close };
}
