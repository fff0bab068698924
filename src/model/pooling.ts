/** What of a text its class is told from. Pure. */

/**
 * `cls`: the first token, through a dense layer with tanh, as transformers' classes for sequence classification do.
 * `mean`: the mean over the text's tokens, as sentence-transformers.
 */
export type Pooling = (typeof POOLINGS)[number];
export const POOLINGS = ['cls', 'mean'] as const;
