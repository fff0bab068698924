/**
 * Counts the bytes of every tensor TensorFlow holds for this process, at each of its operations: those of
 * tfjs and those made through binding.ts, of which `tf.memory()` knows nothing. It stands between tfjs and
 * its native part and follows the memory itself: a reshaped tensor shares the bytes of the one it was made
 * from, and a variable holds on to the bytes it was given. What an operation needs only while it runs is
 * not seen; nor are plain arrays, and tensors that no operation has used yet.
 */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import type { Handle, TensorflowBackend } from './binding.ts';

type Binding = Omit<TensorflowBackend['binding'], 'createTensor'> & {
  createTensor(shape: readonly number[], dtype: number, values: unknown): number;
};

/** Memory of one tensor or of several that share it. */
interface Block {
  readonly bytes: number;
  holders: number;
}

/** Bytes of a number by TensorFlow's numbering of types: float, double, int32, uint8, int16, int8, int64, bool, bf16, half. */
const BYTES_OF_TYPE: Readonly<Record<number, number>> = {
  1: 4,
  2: 8,
  3: 4,
  4: 1,
  5: 2,
  6: 1,
  9: 8,
  10: 1,
  14: 2,
  19: 2,
};

/** Operations whose result is their first input's memory under another name. */
const SHARING = new Set(['Reshape', 'Identity', 'Squeeze', 'ExpandDims', 'StopGradient']);

export class TensorLedger {
  readonly #handles = new Map<number, Block>();
  readonly #variables = new Map<number, Block>(); // by the id of the variable's handle
  #bytes = 0;
  #peakBytes = 0;

  /** Counts from now on, for the rest of the process. */
  constructor(tf: typeof tensorflow) {
    const backend = tf.backend() as unknown as { binding: Binding };
    const native = backend.binding;
    const counted: Pick<Binding, 'createTensor' | 'executeOp' | 'deleteTensor'> = {
      createTensor: (shape, dtype, values) => {
        const id = native.createTensor(shape, dtype, values);
        this.#take(id, this.#block(shape, dtype));
        return id;
      },
      executeOp: (name, attributes, inputs, outputs) => {
        const results = native.executeOp(name, attributes, inputs, outputs);
        this.#executed(name, inputs, results);
        return results;
      },
      deleteTensor: (id) => {
        native.deleteTensor(id);
        this.#drop(this.#handles, id);
      },
    };
    // The native functions are read-only: they are hidden, not replaced.
    backend.binding = Object.create(native, Object.getOwnPropertyDescriptors(counted)) as Binding;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** The most there were at the end of an operation since `restart`. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** Forgets earlier peaks. */
  restart(): void {
    this.#peakBytes = this.#bytes;
  }

  #executed(name: string, inputs: readonly number[], results: readonly Handle[]): void {
    const [first = -1, second = -1] = inputs;
    switch (name) {
      case 'AssignVariableOp': {
        const block = this.#handles.get(second);
        this.#drop(this.#variables, first);
        if (block !== undefined) this.#hold(this.#variables, first, block);
        return;
      }
      case 'DestroyResourceOp':
        return this.#drop(this.#variables, first);
      case 'ReadVariableOp':
        return this.#share(results, this.#variables.get(first));
    }
    if (name.startsWith('ResourceApply')) for (const id of inputs) this.#written(id);
    if (SHARING.has(name)) return this.#share(results, this.#handles.get(first));
    for (const { id, shape, dtype } of results) this.#take(id, this.#block(shape, dtype));
  }

  /** A variable that is written to gets memory of its own first, where something else holds the same. */
  #written(id: number): void {
    const block = this.#variables.get(id);
    if (block === undefined || block.holders === 1) return;
    this.#drop(this.#variables, id);
    this.#hold(this.#variables, id, { bytes: block.bytes, holders: 0 });
  }

  #share(results: readonly Handle[], block: Block | undefined): void {
    for (const { id, shape, dtype } of results) this.#take(id, block ?? this.#block(shape, dtype));
  }

  #block(shape: readonly number[], dtype: number): Block {
    const count = shape.reduce((product, extent) => product * extent, 1);
    return { bytes: count * (BYTES_OF_TYPE[dtype] ?? 0), holders: 0 };
  }

  #take(id: number, block: Block): void {
    this.#hold(this.#handles, id, block);
  }

  #hold(holders: Map<number, Block>, id: number, block: Block): void {
    holders.set(id, block);
    if (block.holders === 0) this.#bytes += block.bytes;
    block.holders += 1;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
  }

  #drop(holders: Map<number, Block>, id: number): void {
    const block = holders.get(id);
    if (block === undefined) return;
    holders.delete(id);
    block.holders -= 1;
    if (block.holders === 0) this.#bytes -= block.bytes;
  }
}
