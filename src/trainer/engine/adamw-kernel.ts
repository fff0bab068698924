/**
 * The kernel of galore/fused-adamw.ts on TensorFlow: `ResourceApplyAdam`, which reads gradient, moments and
 * weight once and writes the last three in place. It works on variables; a tensor becomes one without
 * a copy, and TensorFlow itself copies first where something else still holds the numbers.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { ADAMW_KERNEL } from '../../galore/fused-adamw.ts';
import {
  BACKEND_NAME,
  deleteHandles,
  handOver,
  idOf,
  runOperation,
  type Attribute,
  type Handle,
  type TensorflowBackend,
} from './binding.ts';

interface Numbers {
  readonly beta1: number;
  readonly beta2: number;
  readonly stepSize: number;
  readonly eps: number;
}

/** Makes `fusedAdamw` available in this process. */
export function installAdamwKernel(tf: typeof tensorflow): void {
  tf.registerKernel({
    kernelName: ADAMW_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      const { beta1, beta2, stepSize, eps } = attrs as unknown as Numbers;
      const f32: Attribute[] = [{ name: 'dtype', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT }];
      const variables: Handle[] = [];
      // Adam's two powers of beta are 0 here: the step size carries the bias corrections.
      const scalars = [0, 0, stepSize, beta1, beta2, eps].map((value) => tf.scalar(value));
      try {
        for (const name of ['weight', 'm', 'v']) variables.push(toVariable(backend, inputs[name]!, name));
        runOperation(
          backend,
          'ResourceApplyAdam',
          [{ name: 'T', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT }],
          [
            ...variables.map(({ id }) => id),
            ...scalars.map((scalar) => idOf(backend, scalar)),
            idOf(backend, inputs['gradient']!),
          ],
          0,
        );
        return variables.map((variable) => {
          const [value] = runOperation(backend, 'ReadVariableOp', f32, [variable.id]) as [Handle];
          return handOver(backend, value);
        });
      } finally {
        tf.dispose(scalars);
        for (const { id } of variables) runOperation(backend, 'DestroyResourceOp', [], [id], 0);
        deleteHandles(backend, variables);
      }
    },
  });
}

/** A variable of the tensor's numbers. If nobody else holds the tensor's data, the data moves. */
function toVariable(backend: TensorflowBackend, tensor: tensorflow.TensorInfo, name: string): Handle {
  const { TF_FLOAT } = backend.binding;
  const [variable] = runOperation(
    backend,
    'VarHandleOp',
    [
      { name: 'dtype', kind: 'TF_ATTR_TYPE', value: TF_FLOAT },
      { name: 'shape', kind: 'TF_ATTR_SHAPE', value: tensor.shape },
      { name: 'shared_name', kind: 'TF_ATTR_STRING', value: `galore-adamw-${name}` },
      { name: 'container', kind: 'TF_ATTR_STRING', value: '' },
    ],
    [],
  ) as [Handle];
  const dtype: Attribute = { name: 'dtype', kind: 'TF_ATTR_TYPE', value: TF_FLOAT };
  runOperation(backend, 'AssignVariableOp', [dtype], [variable.id, idOf(backend, tensor)], 0);
  const data = backend.tensorMap.get(tensor.dataId);
  if (data.refCount === 1) {
    backend.binding.deleteTensor(data.id);
    data.id = -1; // as tfjs marks data without a handle: there is nothing left to delete
  }
  return variable;
}
