/**
 * What galore-swarm uses of tfjs beyond its public functions: operations of TensorFlow that tfjs has no
 * function for, through the binding that tfjs itself uses. Handles made here are counted, because
 * `tf.memory()` does not know of them.
 */
import type { TensorInfo, Tensor } from '@tensorflow/tfjs-core';

/** TensorFlow's number for bfloat16 (DT_BFLOAT16), which tfjs does not know. */
export const BF16 = 14;
/** And for 64-bit integers (DT_INT64). */
export const INT64 = 9;
export const BACKEND_NAME = 'tensorflow';

export type AttributeValue = number | boolean | string | readonly number[];

/** An attribute of an operation: its kind is the name of a field of the binding. */
export interface Attribute {
  readonly name: string;
  readonly kind: 'TF_ATTR_TYPE' | 'TF_ATTR_BOOL' | 'TF_ATTR_SHAPE' | 'TF_ATTR_STRING';
  readonly value: AttributeValue;
}

/** A tensor of TensorFlow; whoever holds it deletes it or hands it to tfjs. */
export interface Handle {
  readonly id: number;
  readonly shape: number[];
  readonly dtype: number;
}

interface Binding extends Readonly<Record<Attribute['kind'], number>> {
  readonly TF_FLOAT: number;
  executeOp(
    name: string,
    attributes: readonly object[],
    inputs: readonly number[],
    outputs: number,
  ): Handle[];
  /** Of INT64 the values are pairs: the lower and the upper 32 bits. */
  createTensor(shape: readonly number[], dtype: number, values: Float32Array | Int32Array): number;
  deleteTensor(id: number): void;
  /** Our own (orthonormal-kernels.cc): where the bytes of an array lie. */
  galoreAddress(bytes: Uint8Array): number;
  galoreGram(x: Float32Array, rows: number, cols: number, gram: Float64Array): void;
  galoreTimes(
    x: Float32Array,
    rows: number,
    cols: number,
    t: Float64Array,
    isForm: number,
    out: Float32Array,
  ): void;
}

/** What tfjs keeps about the data of a tensor. */
export interface TensorData {
  readonly dtype: number;
  readonly shape: number[];
  id: number;
  refCount: number;
}

/** tfjs' backend, as far as it is used here. */
export interface TensorflowBackend {
  readonly binding: Binding;
  readonly tensorMap: {
    get(dataId: object): TensorData;
    set(dataId: object, data: TensorData & { readonly values: null }): void;
  };
  incRef(dataId: object): void;
  getInputTensorIds(tensors: readonly TensorInfo[]): number[];
  createOutputTensor(handle: Handle): Tensor;
}

let handleCount = 0;

/** Handles made here that were neither deleted nor handed to tfjs; 0 between operations. For tests. */
export function openHandles(): number {
  return handleCount;
}

/** Runs an operation of TensorFlow. */
export function runOperation(
  { binding }: TensorflowBackend,
  name: string,
  attributes: readonly Attribute[],
  inputs: readonly number[],
  outputs = 1,
): Handle[] {
  const typed = attributes.map(({ name, kind, value }) => ({ name, type: binding[kind], value }));
  const handles = binding.executeOp(name, typed, inputs, outputs);
  handleCount += handles.length;
  return handles;
}

/** Deletes handles that `runOperation` made. */
export function deleteHandles({ binding }: TensorflowBackend, handles: Iterable<Handle>): void {
  for (const { id } of handles) {
    binding.deleteTensor(id);
    handleCount -= 1;
  }
}

/** The handle stays for the life of the process and counts no more. */
export function keepForLife(handle: Handle): Handle {
  handleCount -= 1;
  return handle;
}

/** The handle becomes the data of a tensor of tfjs, with the type tfjs is told. */
export function handOver(
  backend: TensorflowBackend,
  handle: Handle,
  dtype: 'float32' = 'float32',
): TensorInfo {
  const dataId = {};
  backend.tensorMap.set(dataId, { ...handle, values: null, refCount: 1 });
  handleCount -= 1;
  return { dataId, shape: handle.shape, dtype };
}

/** The handle of a tensor of tfjs; stays tfjs'. */
export function idOf(backend: TensorflowBackend, tensor: TensorInfo): number {
  const [id] = backend.getInputTensorIds([tensor]);
  if (id === undefined) throw new RangeError('the tensor has no handle');
  return id;
}
