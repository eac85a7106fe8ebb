// Alone, or in a room of two, whose name is in the page's address.

export const room = new URL(location).searchParams.get("room");

/** Words that differ: what the switch does, and what comes back. */
export const words = room
  ? { on: "On: the other hears your voice enhanced", off: "Off: the other hears the noise, too", back: "The other" }
  : { on: "On: you hear the enhanced voice", off: "Off: you hear the noise, equally late", back: "" };

/** Say in `element` whom the caller hears, with a link to the other possibility. */
export function explain(element) {
  const link = document.createElement("a");
  if (room) {
    link.href = location.pathname;
    link.textContent = "Leave it";
    element.append("A room of two: send this page’s address to somebody, and you hear each other. ", link);
  } else {
    link.href = `?room=${newName()}`;
    link.textContent = "Talk to somebody else";
    element.append("You hear yourself. ", link, " in a room of two.");
  }
}

function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
}
