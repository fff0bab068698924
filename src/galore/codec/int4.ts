/**
 * Four bits a number, two numbers to a byte, with a scale for each block of 64 and stochastic rounding; 0.531
 * bytes a number. The relative error of Gaussian data is about 15 %: it is for slots with error feedback.
 *
 * scale = the least bf16 that is not below f32(largest magnitude of the block / 7), code = floor(x / scale + u)
 * within +-7. As bf16 a scale has the range of f32, so that small gradients do not vanish.
 */
import { blockCodec } from './block-codec.ts';
import { INT4_FORMAT } from './kernels.ts';

export const int4Codec = blockCodec('int4', INT4_FORMAT);
