DELETE FROM {signing_keys} WHERE kid = ANY ($1)
