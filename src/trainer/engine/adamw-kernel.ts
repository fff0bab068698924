/**
 * The kernel of galore/fused-adamw.ts on TensorFlow: `ResourceApplyAdam`, which reads gradient, moments and
 * weight once and writes the last three in place. It works on variables; a tensor becomes one without
 * a copy, and TensorFlow itself copies first where something else still holds the numbers. Handles of the three
 * variables and of the step's numbers stay from call to call; what the variables held does not.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { ADAMW_KERNEL } from '../../galore/fused-adamw.ts';
import {
  BACKEND_NAME,
  handOver,
  idOf,
  keepForLife,
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

const VARIABLES = ['weight', 'm', 'v'] as const;
/** A variable that got no numbers, because something failed before, may be destroyed too. */
const DESTROY: Attribute[] = [{ name: 'ignore_lookup_error', kind: 'TF_ATTR_BOOL', value: true }];
/** Constants kept; those of earlier steps go when there are more. */
const MAX_CONSTANTS = 32;

/** Makes `fusedAdamw` available in this process. */
export function installAdamwKernel(tf: typeof tensorflow): void {
  let variables: readonly Handle[] | undefined;
  const constants = new Map<number, number>();
  tf.registerKernel({
    kernelName: ADAMW_KERNEL,
    backendName: BACKEND_NAME,
    kernelFunc: ({ inputs, attrs, backend: given }) => {
      const backend = given as unknown as TensorflowBackend;
      const { beta1, beta2, stepSize, eps } = attrs as unknown as Numbers;
      const f32: Attribute[] = [{ name: 'dtype', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT }];
      const ids = (variables ??= VARIABLES.map((name) => makeVariable(backend, name))).map(({ id }) => id);
      // Adam's two powers of beta are 0 here: the step size carries the bias corrections.
      if (constants.size + 6 > MAX_CONSTANTS) forget(backend, constants);
      const scalars = [0, 0, stepSize, beta1, beta2, eps].map((value) => constant(backend, constants, value));
      try {
        VARIABLES.forEach((name, index) => assign(backend, ids[index]!, inputs[name]!));
        runOperation(
          backend,
          'ResourceApplyAdam',
          [{ name: 'T', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT }],
          [...ids, ...scalars, idOf(backend, inputs['gradient']!)],
          0,
        );
        return ids.map((id) => {
          const [value] = runOperation(backend, 'ReadVariableOp', f32, [id]) as [Handle];
          return handOver(backend, value);
        });
      } finally {
        for (const id of ids) runOperation(backend, 'DestroyResourceOp', DESTROY, [id], 0);
      }
    },
  });
}

/** Name of a variable that has no numbers yet. */
function makeVariable(backend: TensorflowBackend, name: string): Handle {
  const [variable] = runOperation(
    backend,
    'VarHandleOp',
    [
      { name: 'dtype', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT },
      { name: 'shape', kind: 'TF_ATTR_SHAPE', value: [] },
      { name: 'shared_name', kind: 'TF_ATTR_STRING', value: `galore-adamw-${name}` },
      { name: 'container', kind: 'TF_ATTR_STRING', value: '' },
    ],
    [],
  ) as [Handle];
  return keepForLife(variable);
}

/** Gives the variable the tensor's numbers. If nobody else holds the tensor's data, the data moves. */
function assign(backend: TensorflowBackend, variable: number, tensor: tensorflow.TensorInfo): void {
  const dtype: Attribute = { name: 'dtype', kind: 'TF_ATTR_TYPE', value: backend.binding.TF_FLOAT };
  runOperation(backend, 'AssignVariableOp', [dtype], [variable, idOf(backend, tensor)], 0);
  const data = backend.tensorMap.get(tensor.dataId);
  if (data.refCount === 1) {
    backend.binding.deleteTensor(data.id);
    data.id = -1; // as tfjs marks data without a handle: there is nothing left to delete
  }
}

function constant({ binding }: TensorflowBackend, known: Map<number, number>, value: number): number {
  let id = known.get(value);
  if (id === undefined) {
    id = binding.createTensor([], binding.TF_FLOAT, Float32Array.of(value));
    known.set(value, id);
  }
  return id;
}

function forget({ binding }: TensorflowBackend, known: Map<number, number>): void {
  for (const id of known.values()) binding.deleteTensor(id);
  known.clear();
}
