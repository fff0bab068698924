/**
 * The median, number by number (Yin et al., ICML 2018, arXiv 1803.01498, Definition 1): of an even number of trainers
 * the mean of the two in the middle. As long as less than half of them send garbage the outcome lies between the smallest and
 * the largest honest value of each number. It is the trimmed mean that leaves out all it can.
 *
 * Each trainer counts once, however many tokens it had. A number that is not zero on less than half of the trainers
 * becomes zero: rows of an embedding that few have seen stay as they are.
 */
import type { SlotRule } from './rule.ts';
import { trimmedMeanRule } from './trimmed-mean.ts';

export const medianRule: SlotRule = trimmedMeanRule(Infinity);
