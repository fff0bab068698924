/** How the streams of a run are kept. */
import { DiscardPolicy, RetentionPolicy, StorageType } from '@nats-io/jetstream';

interface RunStream {
  readonly name: string;
  readonly subjects: string[];
  readonly description: string;
  readonly replicas: number;
}

/** On disk. What is full takes nothing more; nothing old goes by itself. */
export function keepingAll({ replicas, ...stream }: RunStream) {
  return {
    ...stream,
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.New,
    num_replicas: replicas,
  };
}
