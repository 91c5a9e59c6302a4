// The metrics of a lane after its first events, with the names and rules of nbdiff_engine.trace.metrics.
//
// Python sends the metrics of a finished lane. These are for a replay before its end, and for an imported file.

// events: packed, in order, of a complete or an unfinished answer. A metric is null if it is unknown or divides by 0.
function measure(events) {
  let [denoise, commit, drafted, accepted, kept] = [0, 0, 0, 0, 0];
  let [startTime, prefillEnd] = [0, 0];
  let prefillTokens = 1; // output tokens that the prefill decodes, not a forward of decoding
  let [first, block] = [null, null];
  for (const [kind, , time, ...rest] of events) {
    const fixed = fixedOf(kind, rest);
    if (kind === "prefill") {
      prefillEnd = time;
      prefillTokens = Math.max(prefillTokens, fixed.length);
    }
    if (kind === "denoise") denoise += 1;
    if (kind === "commit" || kind === "verify") {
      commit += 1;
      block ??= time;
    }
    if (kind === "verify") {
      drafted += rest[2] - rest[1] - 1;
      accepted += rest[3];
    }
    if (kind === "edit") { // a fork: only later events count
      [denoise, commit, drafted, accepted, prefillTokens] = [0, 0, 0, 0, 0];
      [first, block] = [null, null];
      startTime = prefillEnd = time;
      kept = rest[0] + rest[1].filter((token) => token !== null).length;
    }
    if (fixed.length && (kept > 0 || fixed.some(([position]) => position === 0))) first ??= time;
  }
  const last = events.at(-1);
  const finished = last?.[0] === "finish";
  const now = last ? last[2] : 0;
  const tokens = finished ? Math.max(last[4].length - kept, 0) : null;
  const [forwards, span] = [denoise + commit, now - prefillEnd];
  const decodedTokens = Math.max(tokens - prefillTokens, 0);
  return {
    output_tokens: tokens,
    prefill_seconds: last ? prefillEnd - startTime : null,
    decode_seconds: last ? span : null,
    decode_forwards: forwards,
    denoise_forwards: denoise,
    commit_forwards: commit,
    tokens_per_forward: finished && forwards ? decodedTokens / forwards : null,
    tokens_per_second: finished && forwards && span > 0 ? decodedTokens / span : null,
    seconds_to_first_token: first !== null ? first - startTime : finished ? now - startTime : null,
    seconds_to_first_block: block !== null ? block - startTime : finished ? now - startTime : null,
    drafted,
    accepted,
  };
}

// The tokens that a packed event fixed; `rest` is what follows its kind, row and time.
function fixedOf(kind, rest) {
  return { prefill: rest[1], denoise: rest[4], commit: rest[3], verify: rest[4] }[kind] ?? [];
}
