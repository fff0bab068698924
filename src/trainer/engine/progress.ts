/** How an installation says what it is doing, and the printer for terminals and logs. */

export interface EngineProgress {
  /** What is being done, in words. */
  readonly message: string;
  /** How much of it is done, from 0 to 1, where that is known. */
  readonly share?: number;
}

export type OnEngineProgress = (progress: EngineProgress) => void;

/** In a log, which keeps every line, a stage shows again each time this much more of it is done. */
const LOGGED_SHARE = 0.25;

/** Prints progress: on a terminal one line per stage, rewritten as it goes on; elsewhere a few plain lines. */
export function progressPrinter(
  stream: { readonly isTTY?: boolean; write(text: string): unknown },
  prefix: string,
): OnEngineProgress {
  let shown: EngineProgress | undefined;
  let isLineOpen = false;
  return (progress) => {
    const isSameStage = progress.message === shown?.message;
    const percent = progress.share === undefined ? '' : ` ${Math.floor(progress.share * 100)}%`;
    const text = `${prefix}${progress.message}${percent}`;
    if (stream.isTTY) {
      const isLast = progress.share === undefined || progress.share >= 1;
      stream.write(`${isLineOpen ? (isSameStage ? '\r' : '\n') : ''}${text}\x1b[K${isLast ? '\n' : ''}`);
      isLineOpen = !isLast;
    } else {
      if (isSameStage && (progress.share ?? 0) < (shown?.share ?? 0) + LOGGED_SHARE) return;
      stream.write(`${text}\n`);
    }
    shown = progress;
  };
}
