SELECT max(coalesce((SELECT max(number) FROM agentkey_entries), 0), (SELECT max(last) FROM agentkey_index_parts)) + 1
