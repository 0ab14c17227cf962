SELECT e.*, (SELECT k.delegated_by FROM agent_keys k WHERE k.id = e.key_id) FROM ({page}) e ORDER BY e.seq
