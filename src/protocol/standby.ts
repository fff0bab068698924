/**
 * How a coordinator that does not lead its run refuses a WebSocket: HTTP 503 with this header, whose value is where
 * trainers reach the one that leads (`wss://host:port/`), or NO_LEADER. See docs/protocol.md, "Connecting".
 */
export const LEADER_HEADER = 'galore-leader';
export const NO_LEADER = 'none';
