INSERT INTO {holds} ({names}) SELECT {values} FROM {rows}
