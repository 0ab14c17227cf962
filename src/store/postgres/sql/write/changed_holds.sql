UPDATE {holds} h SET {sets}
FROM (SELECT w.*, {=id} AS id FROM {rows} OFFSET 0) w
WHERE h.id = w.id AND h.id = ANY ({$id})
