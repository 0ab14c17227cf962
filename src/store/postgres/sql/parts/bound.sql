-- Whether the row `k` still has the subject that `t` binds to it.
(t.sub IS NULL OR k.{k.sub}::text COLLATE "C" = t.sub AND coalesce(k.{k.issuer}::text, {issuer}) COLLATE "C" = t.issuer)
