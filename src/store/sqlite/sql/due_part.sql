SELECT part FROM agentkey_index_parts WHERE due <= (SELECT max(number) FROM agentkey_entries) ORDER BY due LIMIT 1
