INSERT INTO {entries} ({names}) SELECT {values} FROM {rows}
