/** Numbers as people read them. Pure. */

const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/** `1.2 MB`: powers of 1000, three digits at most, no decimals from 100 on. */
export function formatBytes(bytes: number): string {
  let value = Math.max(0, bytes);
  let unit = 0;
  // 999.5 would be written 1000.
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

/** `45s`, `1m20s`, `2h05m`, `3d04h`; whole seconds, two parts at most. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${pad2(whole % 60)}s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}h${pad2(minutes % 60)}m`;
  return `${Math.floor(hours / 24)}d${pad2(hours % 24)}h`;
}

function pad2(value: number): string {
  return String(value).padStart(2, '0');
}

/** `812`, `12.3k`, `1.4M`: a rate or count that need not be exact. */
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return '?';
  if (value < 9.95) return value.toFixed(value < 0.995 && value > 0 ? 2 : 1).replace(/\.?0+$/, '');
  if (value < 9_999.5) return String(Math.round(value));
  if (value < 999_950) return `${(value / 1000).toFixed(1)}k`;
  return `${(value / 1_000_000).toFixed(1)}M`;
}

/** A loss in nats: two decimals, or in words when it is not a number. */
export function formatLoss(loss: number): string {
  return Number.isFinite(loss) ? loss.toFixed(2) : String(loss);
}

/** A perplexity: three digits that mean something. */
export function formatPerplexity(perplexity: number): string {
  if (!Number.isFinite(perplexity)) return String(perplexity);
  if (perplexity >= 1e6) return perplexity.toExponential(1).replace('+', '');
  if (perplexity >= 99.95) return String(Math.round(perplexity));
  return perplexity.toFixed(perplexity >= 9.995 ? 1 : 2);
}

/** Cuts `text` to `columns` characters, the last one an ellipsis where something is missing. */
export function fitToColumns(text: string, columns: number): string {
  const characters = [...text];
  if (characters.length <= columns) return text;
  return columns < 1 ? '' : `${characters.slice(0, columns - 1).join('')}…`;
}

/** Columns as wide as they must be, the first to the left and the rest to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
  );
}
