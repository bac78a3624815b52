/** Transactions and routing rules: what programs say and hear. */

import type { PartitionDelivery, QueueDelivery } from "./group-types.ts";
import type { MessageHeaders, OutgoingMessage } from "./types.ts";

/** What is done together or not at all; at least one of it. */
export interface Transaction {
  readonly messages?: readonly OutgoingMessage[];
  /** Deliveries of queues that are done with it. */
  readonly acks?: readonly QueueDelivery[];
  /** Deliveries of partitioned groups that are done with it, and all before them in their partitions. */
  readonly commits?: readonly PartitionDelivery[];
}

/**
 * Of a message: its key, id or content type, the first header of a name, or the value at a JSON Pointer (RFC 6901) in its
 * payload.
 */
export type RulePart = "key" | "id" | "content_type" | `header:${string}` | `json:${string}`;

export type RuleTest = "exists" | "missing" | "equals" | "differs" | "begins_with" | "ends_with" | "contains" | "below" | "above";

export interface RuleCondition {
  readonly part: RulePart;
  readonly test: RuleTest;
  /** Compared with; all tests but `exists` and `missing` need it. */
  readonly value?: string;
}

/** In a topic, `{1}` is what the first wildcard of the rule's filter matches, and `{0}` the whole topic. */
export type RuleAction =
  | { readonly action: "copy" | "move"; readonly topic: string }
  | { readonly action: "set_header"; readonly header: string; readonly value: string }
  | { readonly action: "remove_header"; readonly header: string }
  | { readonly action: "drop" };

export interface RuleConfig {
  /** For messages to topics that match. */
  readonly filter?: string;
  /** All of these must hold. */
  readonly when?: readonly RuleCondition[];
  /** What is done, in this order. */
  readonly then?: readonly RuleAction[];
  /** Rules take their turns by rising numbers, then by name; 0 for a new rule if left out. */
  readonly order?: number;
  readonly enabled?: boolean;
}

export interface RoutingRule extends Required<RuleConfig> {
  readonly name: string;
  /** Rises with every change, from 1. */
  readonly version: number;
}

/** What routing rules would make of a message. */
export interface Explanation {
  /** The rules for the message's topics, in the order in which they had their turns. */
  readonly steps: readonly ExplainedStep[];
  /** What would be published, the message itself first if anything is left of it; none if it is dropped. */
  readonly messages: readonly { readonly topic: string; readonly headers?: MessageHeaders }[];
}

export interface ExplainedStep {
  readonly rule: string;
  /** The message's topic when it was the rule's turn. */
  readonly topic: string;
  readonly applied: boolean;
  /** What it did, or why nothing; for people. */
  readonly told: string;
}
