/**
 * Makes the functions of power-kernels.cc and orthonormal-kernels.cc known to tfjs, for galore/power-kernels.ts and
 * galore/projection/fixed-sums.ts. They come with the addon. Those on tensors are for processors; arrays of bytes are
 * handed over as addresses, because a tensor of them would be a copy.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import {
  POWER_KERNELS,
  type SettleAttributes,
  type SketchAttributes,
  type UpdateAttributes,
} from '../../galore/power-kernels.ts';
import {
  GRAM_KERNEL,
  TIMES_KERNEL,
  type GramArguments,
  type TimesArguments,
} from '../../galore/projection/fixed-sums.ts';
import { BACKEND_NAME, handOver, idOf, INT64, runOperation, type TensorflowBackend } from './binding.ts';

type Inputs = Readonly<Record<string, tensorflow.TensorInfo | undefined>>;

/** Makes `sketchError`, `settleError` and `powerUpdate` run as one operation each in this process from now on. */
export function installPowerKernels(tf: typeof tensorflow): void {
  tf.registerKernel({
    kernelName: POWER_KERNELS.sketch,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const { error, share, isTall } = attrs as unknown as SketchAttributes;
      const backend = given as unknown as TensorflowBackend;
      const numbers = { floats: [share], integers: [addressOf(backend, error), Number(isTall)] };
      return execute(backend, POWER_KERNELS.sketch, [inputs['gradient'], inputs['factor']], numbers)[0]!;
    },
  });
  tf.registerKernel({
    kernelName: POWER_KERNELS.settle,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const { error, next, share, isTall, key } = attrs as unknown as SettleAttributes;
      const backend = given as unknown as TensorflowBackend;
      const addresses = [addressOf(backend, error), addressOf(backend, next)];
      const numbers = { floats: [share], integers: [...addresses, Number(isTall), key.low, key.high] };
      const tensors = tensorsOf(inputs, ['gradient', 'left', 'right']);
      return execute(backend, POWER_KERNELS.settle, tensors, numbers)[0]!;
    },
  });
  tf.registerKernel({
    kernelName: POWER_KERNELS.update,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const { moment, next, isTall, key, ...options } = attrs as unknown as UpdateAttributes;
      const backend = given as unknown as TensorflowBackend;
      const { beta1, correction, eps, rate, decay, clip } = options;
      const addresses = [addressOf(backend, moment), addressOf(backend, next)];
      const numbers = {
        floats: [beta1, 1 - beta1, 1 / correction, eps, rate, ...decay, clip],
        integers: [...addresses, Number(isTall), key.low, key.high],
      };
      const tensors = tensorsOf(inputs, ['weight', 'left', 'right', 'rowRoots', 'columnRoots']);
      return execute(backend, POWER_KERNELS.update, tensors, numbers, 2);
    },
  });
}

/** Makes the sums of fixed-sums.ts run in the addon in this process from now on, on whatever device tensors are. */
export function installFixedSums(tf: typeof tensorflow): void {
  tf.registerKernel({
    kernelName: GRAM_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ attrs, backend }) => {
      const { x, rows, cols, gram } = attrs as unknown as GramArguments;
      (backend as unknown as TensorflowBackend).binding.galoreGram(x, rows, cols, gram);
      return [];
    },
  });
  tf.registerKernel({
    kernelName: TIMES_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ attrs, backend }) => {
      const { x, rows, cols, t, isForm, out } = attrs as unknown as TimesArguments;
      (backend as unknown as TensorflowBackend).binding.galoreTimes(x, rows, cols, t, Number(isForm), out);
      return [];
    },
  });
}

function addressOf({ binding }: TensorflowBackend, bytes: Uint8Array): number {
  return binding.galoreAddress(bytes);
}

function tensorsOf(inputs: Inputs, names: readonly string[]): readonly Inputs[string][] {
  return names.map((name) => inputs[name]);
}

/** Runs an operation whose first input has the type T and whose last two are these numbers. */
function execute(
  backend: TensorflowBackend,
  name: string,
  tensors: readonly Inputs[string][],
  { floats, integers }: { readonly floats: readonly number[]; readonly integers: readonly number[] },
  outputs = 1,
): tensorflow.TensorInfo[] {
  const { binding } = backend;
  const words = Int32Array.from(integers.flatMap((value) => [value | 0, Math.floor(value / 2 ** 32)]));
  const own = [
    binding.createTensor([floats.length], binding.TF_FLOAT, Float32Array.from(floats)),
    binding.createTensor([integers.length], INT64, words),
  ];
  try {
    const ids = tensors.map((tensor) => idOf(backend, tensor!));
    const { dtype } = backend.tensorMap.get(tensors[0]!.dataId);
    const type = { name: 'T', kind: 'TF_ATTR_TYPE', value: dtype } as const;
    const handles = runOperation(backend, name, [type], [...ids, ...own], outputs);
    return handles.map((handle) => handOver(backend, handle));
  } finally {
    for (const id of own) binding.deleteTensor(id);
  }
}
