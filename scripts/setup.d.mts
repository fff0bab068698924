export const ROOT: string;

/** Does what is left to do; `engine: false` stops before the tensor engine. Says on stderr what it does. */
export function setUp(options?: { readonly root?: string; readonly engine?: boolean }): Promise<void>;

/** One sentence if this Node is too old, with the command that installs a newer one. */
export function unsuitableNode(root: string, version: string): string | undefined;
