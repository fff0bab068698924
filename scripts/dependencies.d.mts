/** True if node_modules belongs to another checkout (a link in a git worktree): it is used, never changed. */
export function isLinked(root: string): boolean;

export function areDependenciesInstalled(root: string): boolean;

/** Runs `npm ci`, after one that still runs for a set-up that was killed. */
export function installDependencies(
  root: string,
  options?: { readonly onWait?: (holder: string) => void; readonly pollMs?: number },
): Promise<void>;
