/**
 * The schema as JSON Schema: published for editors (docs/run.schema.json), and the one place where
 * messages about a field find its type, range, choices and default.
 */
import { z } from 'zod';
import { runConfigSchema } from './schema.ts';

/** The part of JSON Schema that the run schema uses. */
export interface SchemaNode {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly minItems?: number;
  readonly items?: SchemaNode | false;
  readonly prefixItems?: readonly SchemaNode[];
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly required?: readonly string[];
  readonly anyOf?: readonly SchemaNode[];
}

const ROOT = z.toJSONSchema(runConfigSchema, { io: 'input' }) as SchemaNode;

/** JSON Schema (draft 2020-12) of the YAML file. */
export function jsonSchema(): Record<string, unknown> {
  const { $schema, ...rest } = structuredClone(ROOT) as Record<string, unknown>;
  return { $schema, title: 'galore-swarm run', ...rest };
}

/** The fields of a mapping by name; empty for anything else. A union gives those of its mapping. */
export function fieldsOf(node: SchemaNode): Readonly<Record<string, SchemaNode>> {
  return node.properties ?? node.anyOf?.find((branch) => branch.properties)?.properties ?? {};
}

/** The schema of the field at `path`, or null if there is none. */
export function schemaAt(path: readonly string[]): SchemaNode | null {
  let node: SchemaNode = ROOT;
  for (const name of path) {
    const fields = fieldsOf(node);
    if (!Object.hasOwn(fields, name)) return null;
    node = fields[name] as SchemaNode;
  }
  return node;
}

/** Dotted paths of every field that holds a value of its own, in the order of the schema. */
export function leafPaths(node: SchemaNode = ROOT, prefix: readonly string[] = []): readonly string[] {
  const fields = Object.entries(fieldsOf(node));
  if (fields.length === 0) return [prefix.join('.')];
  return fields.flatMap(([name, child]) => leafPaths(child, [...prefix, name]));
}

/** Bounds at or above this are limits of the encoding, named only to who exceeds them. */
const SILENT_MAXIMUM = 2 ** 31;

/** What a field takes, in words. `given` decides whether a very large upper bound is worth saying. */
export function describeAllowed(node: SchemaNode, given?: unknown): string {
  if (node.enum) return `one of ${node.enum.join(', ')}`;
  if (node.anyOf) return node.anyOf.map((branch) => describeAllowed(branch, given)).join(', or ');
  switch (node.type) {
    case 'boolean':
      return 'true or false';
    case 'integer':
      return `a whole number${describeRange(node, given)}`;
    case 'number':
      return `a number${describeRange(node, given)}`;
    case 'array':
      return describeList(node);
    case 'object':
      return `the fields ${Object.keys(fieldsOf(node)).join(', ')}`;
    default:
      return 'text';
  }
}

function describeList(node: SchemaNode): string {
  const [first] = node.prefixItems ?? [];
  if (first) return `a list of ${node.prefixItems?.length} values, each ${describeAllowed(first)}`;
  const items = node.items ? describeAllowed(node.items) : 'values';
  return items === 'text' ? 'a list of texts' : `a list, each ${items}`;
}

function describeRange(node: SchemaNode, given: unknown): string {
  const isBeyond = typeof given === 'number' && given > (node.maximum ?? Infinity);
  const maximum = (node.maximum ?? Infinity) < SILENT_MAXIMUM || isBeyond ? node.maximum : undefined;
  if (node.minimum !== undefined && maximum !== undefined) return ` from ${node.minimum} to ${maximum}`;
  const bounds = [
    node.minimum === undefined ? '' : `at least ${node.minimum}`,
    node.exclusiveMinimum === undefined ? '' : `above ${node.exclusiveMinimum}`,
    maximum === undefined ? '' : `at most ${maximum}`,
    node.exclusiveMaximum === undefined ? '' : `below ${node.exclusiveMaximum}`,
  ].filter((bound) => bound !== '');
  return bounds.length === 0 ? '' : ` ${bounds.join(' and ')}`;
}
