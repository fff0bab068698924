/** True if node_modules belongs to another checkout (a link in a git worktree): it is used, never changed. */
export function isLinked(root: string): boolean;

export function areDependenciesInstalled(root: string): boolean;

/** Runs `npm ci`. An interrupted one leaves no stamp and is done again from the start. */
export function installDependencies(root: string): Promise<void>;
