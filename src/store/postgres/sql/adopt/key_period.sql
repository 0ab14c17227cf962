CASE k.{period}::text WHEN 'daily' THEN 'day' WHEN 'weekly' THEN 'week' WHEN 'monthly' THEN 'month'
    WHEN 'total' THEN 'lifetime' WHEN 'none' THEN 'lifetime'
    ELSE coalesce(k.{period}::text, CASE WHEN k.{limit} IS NULL THEN {absent} ELSE 'lifetime' END) END
