/**
 * Makes the operations of step-kernels.cc known to tfjs, for model/passes.ts. They are for processors, and
 * come with the addon.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { PASS_KERNELS } from '../model/passes.ts';
import { BACKEND_NAME, handOver, idOf, runOperation, type TensorflowBackend } from './binding.ts';

/** Makes the functions of passes.ts run as one operation each in this process from now on. */
export function installStepKernels(tf: typeof tensorflow): void {
  for (const { kernelName, inputNames, outputs } of Object.values(PASS_KERNELS)) {
    tf.registerKernel({
      kernelName,
      backendName: BACKEND_NAME,
      kernelFunc: ({ inputs, backend: given }) => {
        const backend = given as unknown as TensorflowBackend;
        const ids = inputNames.map((name) => idOf(backend, inputs[name]!));
        // The first input is what a product gave, in the precision of products.
        const { dtype } = backend.tensorMap.get(inputs[inputNames[0]]!.dataId);
        const type = { name: 'T', kind: 'TF_ATTR_TYPE', value: dtype } as const;
        const handles = runOperation(backend, kernelName, [type], ids, outputs);
        return handles.map((handle) => handOver(backend, handle));
      },
    });
  }
}
