/** Protocol versions: which this build speaks and how two sides agree on one. */

/**
 * Versions this build speaks, newest first. A wire change adds one, and the previous one stays unless its
 * slot table cannot be made any more (docs/protocol.md, 14).
 */
export const PROTOCOL_VERSIONS: readonly number[] = [5];

/** The newest version both sides speak, or null. */
export function negotiateVersion(ours: readonly number[], theirs: readonly number[]): number | null {
  const common = ours.filter((version) => theirs.includes(version));
  return common.length === 0 ? null : Math.max(...common);
}
