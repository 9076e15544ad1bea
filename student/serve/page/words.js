// Numbers as they are read.

/** One that no line ends at. */
const SPACE = "\u00a0";
const figure = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: true });

/** Minutes and seconds: 1:05. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A length of time: 24 ms, 1.3 s, 60 minutes. */
export function lasting(seconds) {
  if (seconds < 1) return `${figure(1000 * seconds)}${SPACE}ms`;
  return seconds < 120 ? `${figure(seconds)}${SPACE}s` : `${figure(seconds / 60)}${SPACE}minutes`;
}

/** A number with the largest unit that it has one of. */
function scaled(value, units) {
  const [size, name] = units.find(([size]) => value >= size) ?? units.at(-1);
  return `${figure(value / size)}${SPACE}${name}`.trim();
}

/** Bytes, in thousands: 258 MB. */
export const bytes = (count) => scaled(count, [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]);

/** A count: 129 million. */
export const counted = (count) => scaled(count, [[1e9, "billion"], [1e6, "million"], [1, ""]]);

/** How many times as much: 0.79 ×. */
export const times = (ratio) => `${ratio.toFixed(2)}${SPACE}×`;
