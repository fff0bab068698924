export function rowOf(model: string, preset: string): Promise<string>;
