CASE k.{k.period}::text WHEN 'daily' THEN 'day' WHEN 'weekly' THEN 'week' WHEN 'monthly' THEN 'month'
    WHEN 'total' THEN 'lifetime' WHEN 'none' THEN 'lifetime'
    ELSE coalesce(k.{k.period}::text, CASE WHEN k.{k.limit} IS NULL THEN {absent_period} ELSE 'lifetime' END) END
