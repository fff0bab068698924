/**
 * Matrix products in bf16 for TensorFlow on a CPU: the factors are rounded to bf16, the kernel sums in f32,
 * the result is rounded to bf16 once and handed out in f32. galore/product.ts is how the rest of the
 * program asks for them.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { FACTOR_KERNEL, PRODUCT_KERNEL } from '../../galore/product.ts';
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

/** Makes `product` and `factorOf` compute in bf16 in this process from now on. */
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
    kernelName: PRODUCT_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      const { transposeA, transposeB } = attrs as { transposeA: boolean; transposeB: boolean };
      return productOf(backend, inputs['a']!, inputs['b']!, transposeA, transposeB);
    },
  });
}

function productOf(
  backend: TensorflowBackend,
  a: tensorflow.TensorInfo,
  b: tensorflow.TensorInfo,
  transposeA: boolean,
  transposeB: boolean,
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
