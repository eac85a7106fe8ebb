// The token that some servers ask for: from the field, or from the address (#token=…), kept until the tab is closed.

const KEY = "percepnet-token";
const GIVEN = /^#token=(.+)$/;
const SENDABLE = /^[ -~]+$/;

let token = kept();

/** Take a token out of the page's address, where it would be seen, bookmarked and passed on. */
export function takeFromAddress() {
  const given = GIVEN.exec(location.hash);
  if (!given) return;
  history.replaceState(null, "", location.pathname + location.search);
  keep(decoded(given[1]));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone % in it
  }
}

export function keep(text) {
  token = text.trim();
  try {
    sessionStorage.setItem(KEY, token);
  } catch {} // a browser that keeps nothing for this page
}

function kept() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Headers of a request that needs it; what can be no token is not sent, and the server asks for one. */
export function authorization() {
  return SENDABLE.test(token) ? { Authorization: `Bearer ${token}` } : {};
}
