/** Whether a run takes a gateway. Pure. See docs/gateways.md. */
import type { RunConfig } from '../config/schema.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type { HelloMessage } from '../protocol/messages.ts';

/** Why a gateway is sent away, or null. @param software of the coordinator */
export function gatewayFault(
  { coordinator }: Pick<RunConfig, 'coordinator'>,
  hello: Pick<HelloMessage, 'software'>,
  software: string,
): { readonly reason: CloseReason; readonly text: string } | null {
  // A part of the sum is made there: with the same arithmetic, or the result would depend on who did it.
  if (hello.software !== software) {
    const theirs = hello.software || 'of unknown version';
    const text = `the gateway is ${theirs}, this coordinator ${software}: both must be of one version`;
    return { reason: 'PROTOCOL_VERSION', text };
  }
  const { aggregation, outliers, sharding } = coordinator;
  if (sharding === 'examples') {
    const text =
      'this run takes no gateways: coordinator.sharding: examples needs the size of each site, and a gateway stands for several';
    return { reason: 'WRONG_RUN', text };
  }
  const needs =
    aggregation.rule !== 'mean'
      ? `coordinator.aggregation.rule: ${aggregation.rule}`
      : outliers !== 'accept'
        ? `coordinator.outliers: ${outliers}`
        : null;
  if (needs === null) return null;
  const text = `this run takes no gateways: ${needs} needs the contribution of each trainer, and a gateway sends their sum`;
  return { reason: 'WRONG_RUN', text };
}
