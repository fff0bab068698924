/**
 * From a YAML file, flags and presets to one frozen RunConfig, or one ConfigError that lists every
 * fault. Reading the file is the only thing here that is not pure.
 */
import { readFileSync, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { ConfigError, GaloreError } from '../errors.ts';
import { configError, schemaFaults, unreadableFault, valueAt, type Fault, type Origin } from './faults.ts';
import { fieldsOf, schemaAt } from './json-schema.ts';
import { isMapping, withOverride, type Mapping, type Override } from './overrides.ts';
import { applyPreset } from './presets.ts';
import { relationFaults } from './relations.ts';
import { withRunPreset } from './run-presets.ts';
import { runConfigSchema, type RunConfig } from './schema.ts';
import { MAX_CONFIG_BYTES, readYaml } from './yaml-source.ts';

/** Where a configuration comes from besides its text. */
export interface LoadOptions {
  /** Settings of the command line, in the order given: a later one wins. */
  readonly overrides?: readonly Override[];
  /** Relative paths are relative to this folder, the one the command runs in. */
  readonly workingDir: string;
  /** What `~/` stands for. */
  readonly homeDir: string;
}

/** Reads and resolves the file. @throws ConfigError if it cannot be read or has faults. */
export function loadRunConfig(file: string, options: LoadOptions): RunConfig {
  return parseRunConfig(readConfigText(file, options.workingDir), file, options);
}

/** Resolves the text of `file`. @throws ConfigError with every fault in it. */
export function parseRunConfig(text: string, file: string, options: LoadOptions): RunConfig {
  const overrides = options.overrides ?? [];
  const readable = overrides.filter(({ problem }) => problem === undefined);
  const source = readYaml(text, file);
  const given = withRunPreset(withDefaultTokenizer(pruned(readable.reduce(withOverride, source.mapping))));

  const checked = runConfigSchema.safeParse(given);
  const faults: readonly Fault[] = [
    ...overrides
      .filter(({ problem }) => problem !== undefined)
      .map(({ path, value, problem }) => unreadableFault(path, value, problem ?? '')),
    ...(checked.success ? [] : schemaFaults(checked.error.issues, given)),
  ];
  const broken = relationFaults((path) => readField(path.split('.'), given, faults));
  if (!checked.success || faults.length + broken.length > 0) {
    throw configError(file, [...faults, ...broken], (path) => originOf(path, overrides, source.lineOf));
  }
  return deepFreeze(withAbsolutePaths(applyPreset(checked.data), options));
}

function readConfigText(file: string, workingDir: string): string {
  const path = resolve(workingDir, file);
  try {
    const stats = statSync(path);
    if (stats.isDirectory()) {
      throw new ConfigError(
        `${file} is a folder; give the YAML file of a run (galore resume takes a run directory)`,
      );
    }
    if (stats.size > MAX_CONFIG_BYTES) {
      throw new ConfigError(
        `${file} has ${stats.size} bytes; a configuration has at most ${MAX_CONFIG_BYTES}`,
      );
    }
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof GaloreError) throw error;
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    const reason = isMissing ? 'no such file' : error instanceof Error ? error.message : String(error);
    throw new ConfigError(`cannot read ${file}: ${reason}`);
  }
}

/** A field or section left empty in YAML (null) counts as not given. */
function pruned(mapping: Mapping): Mapping {
  return Object.fromEntries(
    Object.entries(mapping)
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => [name, isMapping(value) ? pruned(value) : value]),
  );
}

/** A model folder brings its tokenizer, unless the file asks for another one. */
function withDefaultTokenizer(given: Mapping): Mapping {
  const path = valueAt(given, ['model', 'path']);
  if (typeof path !== 'string' || valueAt(given, ['tokenizer', 'type']) !== undefined) return given;
  const tokenizer = given['tokenizer'] ?? {};
  return isMapping(tokenizer) ? { ...given, tokenizer: { path, ...tokenizer, type: 'file' } } : given;
}

function readField(path: readonly string[], given: Mapping, faults: readonly Fault[]): unknown {
  const isPrefix = (a: readonly string[], b: readonly string[]): boolean =>
    a.every((name, index) => b[index] === name);
  // A fault inside a mapping spoils what is read of the mapping, except that of an unknown field.
  if (faults.some((fault) => isPrefix(fault.path, path) || isPrefix(path, fault.path))) return undefined;
  const value = valueAt(given, path);
  if (value !== undefined) return value;
  // `model: 60m` is short for `model: {size: 60m}`.
  if (path.join('.') === 'model.size' && typeof given['model'] === 'string') return given['model'];
  return schemaAt(path)?.default;
}

function originOf(
  path: readonly string[],
  overrides: readonly Override[],
  lineOf: (path: readonly string[]) => number | null,
): Origin {
  const flagIndex = overrides.findLastIndex((setter) => {
    const length = Math.min(setter.path.length, path.length);
    return setter.path.slice(0, length).join('.') === path.slice(0, length).join('.');
  });
  const flag = overrides[flagIndex]?.source;
  if (flag !== undefined) return { flag, flagIndex };
  const line = lineOf(path);
  return line === null ? {} : { line };
}

function withAbsolutePaths(config: RunConfig, options: LoadOptions): RunConfig {
  const absolute = (path: string): string => {
    if (path.startsWith('npm:')) return path;
    if (path === '~' || path.startsWith('~/')) return join(options.homeDir, path.slice(1));
    return isAbsolute(path) ? path : resolve(options.workingDir, path);
  };
  const absoluteEach = (path: string | string[]) =>
    typeof path === 'string' ? absolute(path) : path.map(absolute);
  const { model, data, tokenizer, coordinator, state } = config;
  const { auth, tls } = coordinator;
  return {
    ...config,
    dir: absolute(config.dir),
    ...(state?.ca === undefined ? {} : { state: { ...state, ca: absolute(state.ca) } }),
    model: {
      ...model,
      ...(model.path === undefined ? {} : { path: absolute(model.path) }),
      ...(model.adapter === undefined ? {} : { adapter: absolute(model.adapter) }),
    },
    data: {
      ...data,
      ...(data.path === undefined ? {} : { path: absoluteEach(data.path) }),
      ...(data.validation_path === undefined ? {} : { validation_path: absolute(data.validation_path) }),
      ...(data.cache_dir === undefined ? {} : { cache_dir: absolute(data.cache_dir) }),
    },
    tokenizer: {
      ...tokenizer,
      ...(tokenizer.path === undefined ? {} : { path: absolute(tokenizer.path) }),
    },
    coordinator: {
      ...coordinator,
      auth: auth.tokens === undefined ? auth : { tokens: absolute(auth.tokens) },
      ...(tls === undefined ? {} : { tls: withEach(tls, absolute) }),
    },
  };
}

/** The paths, each changed. */
function withEach<T extends object>(paths: T, change: (path: string) => string): T {
  return Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, change(String(path))])) as T;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(deepFreeze);
  }
  return value;
}

/** The configuration as YAML that loads back to the same one; it holds no secrets, for none are in it. */
export function resolvedYaml(config: RunConfig): string {
  const plain: unknown = JSON.parse(JSON.stringify(config));
  return stringify(inSchemaOrder(plain), { lineWidth: 0 });
}

/** The fields of every mapping in the order of the schema, so that equal configurations are equal text. */
function inSchemaOrder(value: unknown, path: readonly string[] = []): unknown {
  if (!isMapping(value)) return value;
  const names = Object.keys(fieldsOf(schemaAt(path) ?? {}));
  return Object.fromEntries(
    names.filter((name) => name in value).map((name) => [name, inSchemaOrder(value[name], [...path, name])]),
  );
}
