/**
 * Eight bits a number, with a scale (f32) for each block of 256 and stochastic rounding; 1.016 bytes a number.
 * The relative error of Gaussian data is about 1 %.
 *
 * scale = f32(largest magnitude of the block / 127), code = floor(x / scale + u) within +-127, u uniform
 * in [0, 1): number i of the stream for element i. The value of a code is code * scale.
 */
import { blockCodec } from './block-codec.ts';
import { INT8_FORMAT } from './kernels.ts';

export const int8Codec = blockCodec('int8', INT8_FORMAT);
