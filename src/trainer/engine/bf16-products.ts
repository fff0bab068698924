/**
 * Matrix products in bf16 for TensorFlow on a CPU: the factors are rounded to bf16, the kernel sums in f32,
 * the result is rounded to bf16 once and handed out in f32, or as it is if it is to be a factor. galore/product.ts is how the rest of the
 * program asks for them.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { FACTOR_KERNEL, NUMBERS_KERNEL, PRODUCT_KERNEL } from '../../galore/product.ts';
import {
  BACKEND_NAME,
  BF16,
  deleteHandles,
  handOver,
  idOf,
  runOperation,
  type Handle,
  type TensorflowBackend,
} from './binding.ts';

/** Makes `product`, `factorOf` and what belongs to them compute in bf16 in this process from now on. */
export function installBf16Products(tf: typeof tensorflow): void {
  tf.registerKernel({
    kernelName: FACTOR_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      return handOver(backend, cast(backend, idOf(backend, inputs['x']!), 'bf16'));
    },
  });
  tf.registerKernel({
    kernelName: NUMBERS_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      const factor = inputs['factor']!;
      const id = idOf(backend, factor);
      if (backend.tensorMap.get(factor.dataId).dtype === BF16) {
        return handOver(backend, cast(backend, id, 'f32'));
      }
      backend.incRef(factor.dataId); // as tf.clone does
      return { dataId: factor.dataId, shape: factor.shape, dtype: factor.dtype };
    },
  });
  tf.registerKernel({
    kernelName: PRODUCT_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      const options = attrs as unknown as ProductOptions;
      return productOf(backend, inputs['a']!, inputs['b']!, options);
    },
  });
}

interface ProductOptions {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  /** The result stays in bf16. */
  readonly isFactor: boolean;
}

function productOf(
  backend: TensorflowBackend,
  a: tensorflow.TensorInfo,
  b: tensorflow.TensorInfo,
  { transposeA, transposeB, isFactor }: ProductOptions,
): tensorflow.TensorInfo {
  const own: Handle[] = [];
  const factor = (x: tensorflow.TensorInfo): number => {
    const id = idOf(backend, x);
    if (backend.tensorMap.get(x.dataId).dtype === BF16) return id;
    const converted = cast(backend, id, 'bf16');
    own.push(converted);
    return converted.id;
  };
  try {
    const [rounded] = runOperation(
      backend,
      'BatchMatMulV2',
      [
        { name: 'T', kind: 'TF_ATTR_TYPE', value: BF16 },
        { name: 'adj_x', kind: 'TF_ATTR_BOOL', value: transposeA },
        { name: 'adj_y', kind: 'TF_ATTR_BOOL', value: transposeB },
      ],
      [factor(a), factor(b)],
    ) as [Handle];
    if (isFactor) return handOver(backend, rounded);
    own.push(rounded);
    return handOver(backend, cast(backend, rounded.id, 'f32'));
  } finally {
    deleteHandles(backend, own);
  }
}

function cast(backend: TensorflowBackend, id: number, to: 'bf16' | 'f32'): Handle {
  const { TF_FLOAT } = backend.binding;
  const [source, target] = to === 'bf16' ? [TF_FLOAT, BF16] : [BF16, TF_FLOAT];
  const [handle] = runOperation(
    backend,
    'Cast',
    [
      { name: 'SrcT', kind: 'TF_ATTR_TYPE', value: source },
      { name: 'DstT', kind: 'TF_ATTR_TYPE', value: target },
      { name: 'Truncate', kind: 'TF_ATTR_BOOL', value: false },
    ],
    [id],
  ) as [Handle];
  return handle;
}
