/** safetensors files made by hand for the tests, good and bad. */

/** A file with this header text and data, whether they fit or not. */
export function rawSafetensors(header: string | Buffer, data: Uint8Array): Buffer {
  const json = typeof header === 'string' ? Buffer.from(header, 'utf8') : header;
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([prefix, json, data]);
}

/** A file of these tensors, laid out in the order given. */
export function safetensorsOf(
  tensors: readonly { name: string; dtype: string; shape: readonly number[]; data: Uint8Array }[],
  metadata?: Record<string, string>,
): Buffer {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  let position = 0;
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [position, position + data.length] };
    position += data.length;
  }
  return rawSafetensors(JSON.stringify(header), Buffer.concat(tensors.map(({ data }) => data)));
}

/** Bytes of float32 values. */
export function f32(...values: readonly number[]): Buffer {
  return Buffer.from(new Float32Array(values).buffer);
}
