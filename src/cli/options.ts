/** Options that several commands share, and how their values are read. Pure but for console advice. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { parseFlag, parseOverride, override, type Override } from '../config/overrides.ts';
import { PRECISIONS } from '../config/schema.ts';
import { DEVICE_WORDS, isDeviceWish, type DeviceWish } from '../device-name.ts';
import { LOG_LEVELS, type LogLevel } from '../log.ts';

/** How a command writes. */
export interface OutputOptions {
  readonly logLevel: LogLevel;
  readonly logJson?: true;
  readonly debug?: true;
}

/** Adds --log-level, --log-json and --debug. */
export function addOutputOptions(command: Command, level: LogLevel): Command {
  return command
    .addOption(new Option('--log-level <level>', 'how much is logged').choices(LOG_LEVELS).default(level))
    .option('--log-json', 'logs and progress as JSON lines')
    .addOption(debugOption());
}

/** --debug alone, for commands that do not log. */
export function debugOption(): Option {
  return new Option('--debug', 'show the stack of an error');
}

/** --precision. */
export function precisionOption(): Option {
  return new Option('--precision <p>', 'of the matrix products; bf16 needs AVX512-BF16, AMX or a GPU')
    .choices(PRECISIONS)
    .default('f32');
}

/** The settings laid over a run file; `list` holds them in the order given. */
export class OverrideList {
  readonly list: Override[] = [];

  /** Adds --set and --steps. */
  addTo(command: Command): Command {
    return command
      .option('--steps <n>', 'steps of the run (steps)', this.flag('--steps', 'steps'))
      .option(
        '--set <field=value>',
        'set any field of the file, such as optimizer.lr=0.005; may be repeated, later ones win',
        (text: string) => void this.list.push(parseOverride(text)),
      );
  }

  /** Adds --seed and --dir, which only a new run has. */
  addNewRunOptionsTo(command: Command): Command {
    return command
      .option('--seed <n>', 'seed of everything random (seed)', this.flag('--seed', 'seed'))
      .option('--dir <folder>', 'run directory (dir)', (text: string) => {
        this.list.push(override('dir', text, `--dir ${text}`));
      });
  }

  /** Adds --insecure. */
  addInsecureTo(command: Command): Command {
    return command.option(
      '--insecure',
      'listen beyond this machine without join tokens or without TLS (coordinator.insecure)',
      () => void this.list.push(override('coordinator.insecure', true, '--insecure')),
    );
  }

  /** Adds --device for the trainers a command starts. */
  addDeviceTo(command: Command): Command {
    return command.option(
      '--device <device>',
      'cpu, gpu:0, …, or auto: spread over the GPUs if their engine is installed (trainer.device)',
      this.flag('--device', 'trainer.device'),
    );
  }

  /** Reads a shorthand flag for the field at `path`. */
  flag(name: string, path: string): (text: string) => void {
    return (text) => void this.list.push(parseFlag(path, text, `${name} ${text}`));
  }

  /** Whether the flag was given. */
  has(name: string): boolean {
    return this.list.some(({ source }) => source.startsWith(`${name} `));
  }
}

/** --adapter of commands that use a model. */
export function adapterOption(): Option {
  return new Option('--adapter <path>', 'the folder of a peft adapter to use the model with');
}

/** --device of commands that load the engine: `flags.device` is what `services.ensureEngine` takes. */
export function deviceOption(): Option {
  return new Option('--device <device>', 'cpu, gpu:0, gpu:1, …, or auto: a GPU if its engine is installed')
    .default('auto')
    .argParser((text): DeviceWish => {
      if (isDeviceWish(text)) return text;
      throw new InvalidArgumentError(`It must be ${DEVICE_WORDS}.`);
    });
}

/** Reads a whole number of at least `minimum` from an option. */
export function wholeNumber(minimum: number, maximum = 0xffffffff): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= minimum && value <= maximum) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${minimum} to ${maximum}.`);
  };
}

/** Reads a number from an option; `isAllowed` and `allowed` say which. */
export function numberWhere(
  isAllowed: (value: number) => boolean,
  allowed: string,
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && isAllowed(value)) return value;
    throw new InvalidArgumentError(`It must be ${allowed}.`);
  };
}
