/** Runs AVA in `root`, prints what failed, and counts. A run that breaks off counts as one more failure. */
export function runAva(
  root: string,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<{ passed: number; failed: number }>;
