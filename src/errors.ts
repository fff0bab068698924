/**
 * Every error this project throws on purpose. A reader can tell by `code` what happened and by the
 * fields what the facts were; docs/errors.md lists the codes.
 */

/** Base of all errors thrown on purpose. */
export class GaloreError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** One thing wrong in a configuration. */
export interface ConfigFault {
  /** Dotted path of the field, such as `optimizer.lr`. */
  readonly field: string;
  /** What was given, as a person would write it. */
  readonly value: string;
  /** What is allowed, in words. */
  readonly allowed: string;
  /** Line in the YAML file, from 1, where known. */
  readonly line?: number;
}

/** The configuration is unusable; `faults` holds every fault found, not only the first. */
export class ConfigError extends GaloreError {
  readonly faults: readonly ConfigFault[];
  constructor(message: string, faults: readonly ConfigFault[] = []) {
    super('ERR_GALORE_CONFIG', message);
    this.faults = faults;
  }
}

/** A peer sent something the protocol does not allow; `closeCode` is what its connection is closed with. */
export class ProtocolError extends GaloreError {
  readonly closeCode: number;
  constructor(closeCode: number, message: string, options?: ErrorOptions) {
    super('ERR_GALORE_PROTOCOL', message, options);
    this.closeCode = closeCode;
  }
}

/** A checkpoint, journal or run directory is damaged or not what it should be; `path` names it. */
export class CheckpointError extends GaloreError {
  readonly path: string;
  constructor(path: string, message: string, options?: ErrorOptions) {
    super('ERR_GALORE_CHECKPOINT', message, options);
    this.path = path;
  }
}

/** A file given by the user cannot be used (missing, empty, binary, malformed); `path` names it. */
export class DataError extends GaloreError {
  readonly path: string;
  constructor(path: string, message: string, options?: ErrorOptions) {
    super('ERR_GALORE_DATA', message, options);
    this.path = path;
  }
}

/** A tensor or matrix does not have the shape it must have. */
export class TensorShapeError extends GaloreError {
  constructor(message: string) {
    super('ERR_GALORE_SHAPE', message);
  }
}

/** A number to be sent is NaN or infinite: the training has diverged. */
export class NotFiniteError extends GaloreError {
  constructor(message: string) {
    super('ERR_GALORE_NOT_FINITE', message);
  }
}

/** The tensor engine cannot be installed or loaded. */
export class EngineError extends GaloreError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_GALORE_ENGINE', message, options);
  }
}

/** Something the operating system refuses: a port in use, no disk space, no permission. */
export class OperatingError extends GaloreError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_GALORE_OPERATING', message, options);
  }
}

/** A trainer was turned away for good, or has lost its coordinator. */
export class TrainerError extends GaloreError {
  constructor(message: string) {
    super('ERR_GALORE_TRAINER', message);
  }
}
