// The token that some servers ask for: from the field, or from the address (#token=…), kept until the tab is closed.

const KEY = "percepnet-token";
const GIVEN = /^#token=(.+)$/;

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

export function keep(token) {
  if (token) sessionStorage.setItem(KEY, token.trim());
  else sessionStorage.removeItem(KEY);
}

/** Headers of a request that needs it. */
export function authorization() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}
