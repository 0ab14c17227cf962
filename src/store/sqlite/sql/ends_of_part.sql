SELECT last, min((SELECT max(number) FROM agentkey_entries), last + ?2) FROM agentkey_index_parts WHERE part = ?1
