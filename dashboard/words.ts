/** Numbers in words, for people. Pure. */

/** `1.4 MB`; `-` for what is not known. */
export function bytes(value: number | null): string {
  if (value === null) return '-';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let [amount, unit] = [value, 0];
  for (; amount >= 999.5 && unit < units.length - 1; unit++) amount /= 1000;
  return `${unit === 0 ? amount.toFixed(0) : amount.toPrecision(3)} ${units[unit]}`;
}

/** `320 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h` */
export function time(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return '-';
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  const hours = Math.round(seconds / 3600);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `12,345` */
export function count(value: number | null): string {
  return value === null ? '-' : Math.round(value).toLocaleString('en-US');
}

/** As the command line shows a loss. */
export function loss(value: number | null): string {
  return value === null ? '-' : value.toFixed(4);
}

/** Three digits: `0.00125`, `1.25e-5` */
export function short(value: number | null): string {
  return value === null ? '-' : String(Number(value.toPrecision(3)));
}
