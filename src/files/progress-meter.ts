/** How far a long reading is, told every whole percent. */

/** What is being done, and how far that is, from 0 to 1; every new text starts at 0 again. */
export type OnProgress = (text: string, share: number) => void;

/** Adds up amounts and reports every whole percent. Characters are at most bytes, so a share never passes 1. */
export function progressMeter(onProgress: OnProgress, text: string, total: number): (amount: number) => void {
  let done = 0;
  let reported = -1;
  return (amount) => {
    done += amount;
    const share = Math.min(1, done / Math.max(1, total));
    if (Math.floor(share * 100) <= reported) return;
    reported = Math.floor(share * 100);
    onProgress(text, share);
  };
}
