/** Ctrl-C and its kin: the first asks to end in good order, the second ends at once. SHELL. */
import { OperatingError } from '../errors.ts';
import { STOP_SIGNALS, type SignalSource } from './context.ts';

/** What to do; `again` is called for the second signal and every later one. */
export interface InterruptHandlers {
  readonly first: () => void;
  readonly again: () => void;
}

/** A command of several processes was asked to end before it was done. */
export class InterruptedError extends OperatingError {
  /** @param what has become of what the command had started */
  constructor(what: string) {
    super(`interrupted; ${what}`);
  }
}

/** Listens until disposed; from then on the signals do what they do by default. */
export function onInterrupt(signals: SignalSource, handlers: InterruptHandlers): Disposable {
  let count = 0;
  const listener = (): void => {
    count += 1;
    if (count === 1) handlers.first();
    else handlers.again();
  };
  for (const signal of STOP_SIGNALS) signals.on(signal, listener);
  return {
    [Symbol.dispose]() {
      for (const signal of STOP_SIGNALS) signals.off(signal, listener);
    },
  };
}
