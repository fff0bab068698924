/** Builds what is not up to date (everything with `force`). The caller holds the lock of the set-up. */
export function build(options?: { readonly root?: string; readonly force?: boolean }): void;

/** True if dist/ and the protocol code were made from the sources as they are now. */
export function isBuilt(root?: string): boolean;
