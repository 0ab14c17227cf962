//! The parameters of a statement. The name, the type and the value of each are declared together.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgHasArrayType, Postgres};
use sqlx::{Arguments, AssertSqlSafe, Encode, Type};
use uuid::Uuid;

use super::connection::Query;
use super::error::{Error, Result};
use super::names::Sql;
use super::types::{Instant, RowVersion};

/// A type of a parameter, or of the elements of an array parameter.
pub(super) trait Cell<'q>: Encode<'q, Postgres> + Type<Postgres> + PgHasArrayType {
    /// The type in SQL.
    const SQL: &'static str;
    /// Whether an element of its arrays has a fixed offset. Otherwise the server counts the elements from the first.
    const IS_FIXED: bool;
}

macro_rules! cells {
    ($($cell:ty = $sql:literal, $is_fixed:literal;)*) => {$(
        impl<'q> Cell<'q> for $cell {
            const SQL: &'static str = $sql;
            const IS_FIXED: bool = $is_fixed;
        }

        /// No element of an array with a NULL in it has a fixed offset.
        impl<'q> Cell<'q> for Option<$cell> {
            const SQL: &'static str = $sql;
            const IS_FIXED: bool = false;
        }
    )*};
}

cells! {
    i32 = "int4", true;
    i64 = "int8", true;
    Uuid = "uuid", true;
    Instant = "timestamptz", true;
    RowVersion = "int4", true;
    &'q str = "text", false;
    String = "text", false;
    Vec<u8> = "bytea", false;
}

/// The parameters of a statement. The parameters of its rows are arrays, one for each column.
#[derive(Default)]
pub(super) struct Params {
    arguments: PgArguments,
    columns: Vec<Column>,
    /// The constants of the text in place of parameters, column by column. Texts with different constants are different
    /// statements.
    variant: Vec<&'static str>,
    failed: Option<BoxDynError>,
}

/// A parameter, and its form in the text.
struct Column {
    /// The rows that it is a column of, or an empty name.
    part: &'static str,
    name: &'static str,
    number: usize,
    sql_type: &'static str,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Value,
    /// Its cells are addressed by subscript.
    Array,
    /// Its cells are unnested, and cast to this type.
    Unnested(&'static str),
    /// The places of the accounts of rows. It is not a column.
    Place,
    /// The account of the row.
    Account,
    /// The same SQL for every row, without a parameter.
    Constant(&'static str),
}

impl Params {
    /// Adds a parameter, `{name}` in the text.
    pub(super) fn value<'q, T: Cell<'q>>(&mut self, name: &'static str, value: T) {
        self.add("", name, T::SQL, Form::Value, value);
    }

    /// Adds an array, `{name}` in the text.
    pub(super) fn array<'q, T: Cell<'q>>(&mut self, name: &'static str, values: Vec<T>) {
        self.add("", name, T::SQL, Form::Array, values);
    }

    /// Adds rows, each with the place of its account. The returned value adds their columns. Without rows there are no
    /// columns.
    pub(super) fn rows<'r, R>(
        &mut self,
        part: &'static str,
        rows: &'r [(i32, R)],
    ) -> Rows<'_, 'r, R> {
        let rows = Rows { params: self, part, rows };
        rows.cells("", Form::Place, |(place, _)| *place)
    }

    pub(super) fn has_rows(&self, part: &str) -> bool {
        self.columns.iter().any(|column| column.part == part)
    }

    fn add<'q, T>(
        &mut self,
        part: &'static str,
        name: &'static str,
        sql_type: &'static str,
        form: Form,
        value: T,
    ) where
        T: Encode<'q, Postgres> + Type<Postgres>,
    {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        self.columns.push(Column { part, name, number: self.arguments.len(), sql_type, form });
    }

    /// Returns the constants that distinguish this text from others with the same parts.
    pub(super) fn variant(&self) -> &[&'static str] {
        &self.variant
    }

    /// Fills the parameters into a text.
    pub(super) fn fill(&self, text: &str) -> String {
        let named = self.columns.iter().filter(|column| column.part.is_empty());
        named.fold(text.to_owned(), |text, column| {
            text.replace(&format!("{{{}}}", column.name), &column.param())
        })
    }

    /// Fills the rows of a part into a text:
    ///
    /// - `{rows}`: the rows, each of which is a `w`.
    /// - `{names}` and `{values}`: the names and the values of their columns.
    /// - `{sets}`: assigns the values of the columns that are not in `key`.
    /// - `{updates}`: assigns the values that were to be inserted.
    /// - `{=name}` and `{$name}`: the value of a column, and the whole array.
    pub(super) fn fill_rows(&self, part: &str, key: &[&str], text: &str) -> String {
        let own = || self.columns.iter().filter(|column| column.part == part);
        let columns: Vec<_> = own().filter(|column| column.form != Form::Place).collect();
        let join = |columns: &mut dyn Iterator<Item = &&Column>,
                    each: &dyn Fn(&Column) -> String| {
            columns.map(|column| each(column)).collect::<Vec<_>>().join(", ")
        };
        let others = || {
            columns
                .iter()
                .filter(|column| column.form != Form::Account && !key.contains(&column.name))
        };
        let mut text = text
            .replace("{rows}", &rows(own))
            .replace("{names}", &join(&mut columns.iter(), &|column| column.name.to_owned()))
            .replace("{values}", &join(&mut columns.iter(), &Column::value))
            .replace(
                "{sets}",
                &join(&mut others(), &|column| format!("{} = {}", column.name, column.value())),
            )
            .replace(
                "{updates}",
                &join(&mut others(), &|column| format!("{0} = excluded.{0}", column.name)),
            );
        for column in &columns {
            text = text.replace(&format!("{{={}}}", column.name), &column.value());
            text = text.replace(&format!("{{${}}}", column.name), &column.param());
        }
        self.fill(&text)
    }

    /// Returns the statement with this text.
    pub(super) fn query<'q>(self, text: &Sql) -> Result<Query<'q>> {
        match self.failed {
            Some(error) => Err(Error::Sqlx(sqlx::Error::Encode(error))),
            None => Ok(sqlx::query_with(AssertSqlSafe(text.text()), self.arguments)),
        }
    }
}

/// Returns the SQL of the rows whose accounts did not conflict.
fn rows<'c, I: Iterator<Item = &'c Column>>(columns: impl Fn() -> I) -> String {
    let mut text = "(SELECT ".to_owned();
    for place in columns().filter(|column| column.form == Form::Place) {
        text.push_str(&format!(
            "generate_subscripts({0}, 1) AS i, unnest({0}) AS place",
            place.param()
        ));
    }
    for column in columns().filter(|column| matches!(column.form, Form::Unnested(_))) {
        text.push_str(&format!(", unnest({}) AS {}", column.param(), column.name));
    }
    text + " OFFSET 0) w WHERE w.place <> ALL (ARRAY(SELECT place FROM conflicted))"
}

impl Column {
    fn param(&self) -> String {
        let array = if self.form == Form::Value { "" } else { "[]" };
        format!("(${}::{}{array})", self.number, self.sql_type)
    }

    /// Returns the SQL of its cell in the row `w`.
    fn value(&self) -> String {
        match self.form {
            Form::Value | Form::Place => self.param(),
            Form::Array => format!("{}[w.i]", self.param()),
            Form::Unnested(cast) if cast == self.sql_type => format!("w.{}", self.name),
            Form::Unnested(cast) => format!("w.{}::{cast}", self.name),
            Form::Account => "{account}[w.place]".to_owned(),
            Form::Constant(sql) => sql.to_owned(),
        }
    }
}

/// Adds the columns of rows.
pub(super) struct Rows<'p, 'r, R> {
    params: &'p mut Params,
    part: &'static str,
    rows: &'r [(i32, R)],
}

impl<'p, 'r, R> Rows<'p, 'r, R> {
    /// Adds a column with the account of the row.
    pub(super) fn account(self, name: &'static str) -> Self {
        self.unbound(name, Form::Account)
    }

    /// Adds a column that is usually the same in all rows. If it is, `sql` is in the text and no cell is sent.
    pub(super) fn constant_if(
        self,
        name: &'static str,
        sql: &'static str,
        is_constant: impl Fn(i32, &'r R) -> bool,
    ) -> ConstantColumn<'p, 'r, R> {
        ConstantColumn { rows: self, name, sql: None }.or_constant_if(sql, is_constant)
    }

    /// Adds a column that seldom has a NULL in it.
    pub(super) fn optional(self, name: &'static str, cell: impl Fn(&'r R) -> Option<i64>) -> Self {
        let has_all = self.rows.iter().all(|(_, row)| cell(row).is_some());
        self.params.variant.push(if has_all { "" } else { "NULL" });
        if has_all {
            self.column(name, |row| cell(row).unwrap_or_default())
        } else {
            self.column(name, cell)
        }
    }

    fn unbound(self, name: &'static str, form: Form) -> Self {
        if !self.rows.is_empty() {
            self.params.columns.push(Column {
                part: self.part,
                name,
                number: 0,
                sql_type: "",
                form,
            });
        }
        self
    }

    pub(super) fn column<'q, T: Cell<'q>>(
        self,
        name: &'static str,
        cell: impl Fn(&'r R) -> T,
    ) -> Self {
        let form = if T::IS_FIXED { Form::Array } else { Form::Unnested(T::SQL) };
        self.cells(name, form, |(_, row)| cell(row))
    }

    /// Adds a column with a type that its cells are cast to.
    pub(super) fn cast<'q, T: Cell<'q>>(
        self,
        name: &'static str,
        sql_type: &'static str,
        cell: impl Fn(&'r R) -> T,
    ) -> Self {
        self.cells(name, Form::Unnested(sql_type), |(_, row)| cell(row))
    }

    fn cells<'q, T: Cell<'q>>(
        self,
        name: &'static str,
        form: Form,
        cell: impl Fn(&'r (i32, R)) -> T,
    ) -> Self {
        if !self.rows.is_empty() {
            self.params.add(
                self.part,
                name,
                T::SQL,
                form,
                self.rows.iter().map(cell).collect::<Vec<_>>(),
            );
        }
        self
    }
}

/// A column that may be a constant, until its other values are given.
pub(super) struct ConstantColumn<'p, 'r, R> {
    rows: Rows<'p, 'r, R>,
    name: &'static str,
    /// The SQL of the constant, if all rows have it.
    sql: Option<&'static str>,
}

impl<'p, 'r, R> ConstantColumn<'p, 'r, R> {
    pub(super) fn or_constant_if(
        mut self,
        sql: &'static str,
        is_constant: impl Fn(i32, &'r R) -> bool,
    ) -> Self {
        if self.sql.is_none() {
            self.sql =
                self.rows.rows.iter().all(|(place, row)| is_constant(*place, row)).then_some(sql);
            self.rows.params.variant.push(self.sql.unwrap_or(""));
        }
        self
    }

    pub(super) fn or<'q, T: Cell<'q>>(self, cell: impl Fn(&'r R) -> T) -> Rows<'p, 'r, R> {
        match self.sql {
            Some(sql) => self.rows.unbound(self.name, Form::Constant(sql)),
            None => self.rows.column(self.name, cell),
        }
    }

    pub(super) fn or_cast<'q, T: Cell<'q>>(
        self,
        sql_type: &'static str,
        cell: impl Fn(&'r R) -> T,
    ) -> Rows<'p, 'r, R> {
        match self.sql {
            Some(sql) => self.rows.unbound(self.name, Form::Constant(sql)),
            None => self.rows.cast(self.name, sql_type, cell),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_all_rows_have_is_a_constant_in_the_text() {
        let text = |rows: &[(i32, (i64, Option<i64>))]| {
            let mut params = Params::default();
            let part = params
                .rows("holds", rows)
                .account("account_id")
                .optional("key_id", |(_, key)| *key);
            part.constant_if("state", "'live'", |_, (state, _)| *state == 0)
                .or(|(state, _)| *state);
            (params.fill_rows("holds", &[], "({names}) ({values})"), params.variant().to_vec())
        };
        let names =
            |values: &str| format!("(account_id, key_id, state) ({{account}}[w.place], {values})");
        assert_eq!(
            text(&[(1, (0, Some(7))), (1, (0, Some(8)))]).0,
            names("($2::int8[])[w.i], 'live'")
        );
        assert_eq!(
            text(&[(1, (0, Some(7))), (1, (1, None))]).0,
            names("w.key_id, ($3::int8[])[w.i]")
        );
        let variants = [[0, 7], [1, 7], [0, 0]]
            .map(|[state, key]| text(&[(1, (state, (key > 0).then_some(key)))]).1);
        assert!(variants[0] != variants[1] && variants[0] != variants[2], "{variants:?}");
    }

    #[test]
    fn a_column_has_its_own_cells_in_any_order_of_columns() {
        let (mut params, rows) = (Params::default(), [(1, (7_i64, "x"))]);
        params.array("account", vec!["acme"]);
        params.rows("none", &rows[..0]).account("account_id").column("id", |(id, _)| *id);
        params
            .rows("notes", &rows)
            .cast("labels", "jsonb", |(_, label)| *label)
            .account("account_id")
            .column("id", |(id, _)| *id);
        assert!(params.has_rows("notes") && !params.has_rows("none"));
        let filled = |text| params.fill_rows("notes", &["id"], text);
        assert_eq!(
            filled("({names}) ({values})"),
            "(labels, account_id, id) (w.labels::jsonb, ($1::text[])[w.place], ($4::int8[])[w.i])"
        );
        assert_eq!(
            filled("{updates}; {sets}"),
            "labels = excluded.labels; labels = w.labels::jsonb"
        );
        assert_eq!(filled("{=id} = ANY ({$id})"), "($4::int8[])[w.i] = ANY (($4::int8[]))");
        assert_eq!(
            filled("{rows}"),
            "(SELECT generate_subscripts(($2::int4[]), 1) AS i, unnest(($2::int4[])) AS place, unnest(($3::text[])) AS labels \
             OFFSET 0) w WHERE w.place <> ALL (ARRAY(SELECT place FROM conflicted))"
        );
    }
}
